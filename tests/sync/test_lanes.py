"""What may go on a link and what is overdue, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sync.link.lanes import CHUNK_FRAMES, IN_FLIGHT_MAX, Lanes, Sent, Sweep, Timing
from sync.store.store import StoredFrame

S = 10**9
TIMING = Timing(resend_s=60.0, silence_s=600.0, window=8, window_start=8)


def frame(number: int, epoch: int = 7) -> StoredFrame:
    return StoredFrame(number, epoch, number, number, 1, "h", b"")


def send(lanes: Lanes, number: int, now_ns: int, *, live: bool = True, epoch: int = 7) -> None:
    lanes.sent(frame(number, epoch), 100, now_ns, live=live)


def confirm(lanes: Lanes, *numbers: int, now_ns: int) -> list[int]:
    return lanes.confirm(lambda entry: entry.id in numbers, now_ns)


def nothing(entry: Sent) -> bool:
    return False


# ---------------------------------------------------------------- what may go


def test_each_lane_has_a_window_of_its_own() -> None:
    lanes = Lanes(100, TIMING, 0)
    for number in range(1, 9):
        send(lanes, number, 0, live=False)
    assert (lanes.back_room(), lanes.live_room(0)) == (0, 8)
    for number in range(101, 109):
        send(lanes, number, 0)
    assert lanes.live_room(0) == 0
    assert lanes.in_flight == 16
    assert confirm(lanes, 3, 105, now_ns=1) == [105, 3]
    assert (lanes.back_room(), lanes.live_room(1)) == (1, 1)


def test_a_backlog_has_few_bytes_under_way_however_large_its_frames_are() -> None:
    lanes = Lanes(100, TIMING, 0)
    for number in range(1, 6):
        assert lanes.back_room()
        lanes.sent(frame(number), 800_000, 0, live=False)
    assert lanes.back_room() == 0


def test_without_selective_confirmations_live_stays_open_behind_a_moving_backlog() -> None:
    lanes = Lanes(100, TIMING, 0, selective=False)
    for number in range(101, 150):
        assert lanes.live_room(0) == CHUNK_FRAMES
        send(lanes, number, 0)
    late = 61 * S
    assert lanes.live_room(late) == 0, "no progress: what is new waits with the backlog"
    send(lanes, 1, late, live=False)
    assert confirm(lanes, 1, now_ns=late) == [1]
    assert lanes.live_room(late) > 0


def test_what_is_remembered_as_sent_is_bounded() -> None:
    lanes = Lanes(0, TIMING, 0, selective=False)
    for number in range(1, IN_FLIGHT_MAX + 100):
        send(lanes, number, 0)
    assert lanes.in_flight == IN_FLIGHT_MAX
    assert not lanes.is_sent(1)
    assert lanes.is_sent(IN_FLIGHT_MAX + 99)


# ---------------------------------------------------------------- in which order


def test_an_empty_store_has_nothing_to_sweep() -> None:
    assert not Lanes(0, TIMING, 0).draining
    assert not Lanes(0, TIMING, 0, hours_open=False).draining


@pytest.mark.parametrize("newest_first", [False, True])
def test_frames_with_events_go_first_then_all_the_rest(newest_first: bool) -> None:
    lanes = Lanes(40, TIMING, 0, newest_first=newest_first)
    assert lanes.sweeps == [Sweep(0, 41, newest_first, events=True), Sweep(0, 41, newest_first)]
    lanes.sweeps[0].passed(20)
    assert lanes.sweeps[0] == Sweep(
        0 if newest_first else 20, 20 if newest_first else 41, newest_first, events=True
    )


def test_outside_of_the_hours_only_events_go_and_what_was_lost_since() -> None:
    lanes = Lanes(40, TIMING, 0, hours_open=False)
    assert lanes.sweeps == [Sweep(0, 41, events=True)]
    send(lanes, 41, 0)
    lanes.go_back(41, 0)
    assert lanes.sweeps == [Sweep(0, 42, events=True), Sweep(40, 42)]
    turn = lanes.turn
    lanes.open_hours(True)
    assert lanes.sweeps == [Sweep(0, 42, events=True), Sweep(0, 42)]
    assert lanes.turn > turn, "what was fetched for the old sweeps is not sent"
    lanes.open_hours(True)
    assert lanes.turn == turn + 1


def test_whoever_confirms_no_single_frames_gets_the_backlog_in_order() -> None:
    lanes = Lanes(40, TIMING, 0, newest_first=True)
    send(lanes, 40, 0, live=False)
    lanes.confirm_without_holes_only()
    assert lanes.sweeps == [Sweep(0, 41)]
    assert not lanes.is_sent(40), "out of order it would stand in the way"
    lanes.confirm_without_holes_only()
    assert lanes.turn == 1


def test_what_live_data_is_too_slow_for_becomes_backlog_and_the_newest_stays_live() -> None:
    lanes = Lanes(10, TIMING, 0)
    send(lanes, 11, 0)
    lanes.pass_over(60)
    assert (lanes.live, lanes.sweeps[-1]) == (60, Sweep(0, 61))
    assert lanes.is_sent(11), "it is not sent a second time"


def test_where_frames_became_one_all_that_has_gone_is_walked_over_again() -> None:
    lanes = Lanes(10, TIMING, 0, hours_open=False)
    send(lanes, 21, 0)
    lanes.sweeps.clear()
    lanes.renumbered()
    assert lanes.sweeps == [Sweep(0, 22, events=True), Sweep(10, 22)]
    assert (lanes.live, lanes.turn) == (21, 1)
    assert lanes.is_sent(21), "it is not sent a second time"


# ---------------------------------------------------------------- how much at a time


def test_the_backlog_widens_while_its_way_stays_short_and_narrows_when_it_queues() -> None:
    lanes = Lanes(10_000, replace(TIMING, window=64, window_start=2), 0)
    now = number = 0
    for _ in range(5):  # 20 ms each, however many there are
        room = lanes.back_room()
        for _ in range(room):
            number += 1
            send(lanes, number, now, live=False)
        now += S // 50
        confirm(lanes, *range(number + 1), now_ns=now)
    assert lanes.back_window == 64
    for _ in range(20):  # each confirmation takes as long as the frames in front need: 10 ms each
        for _ in range(lanes.back_room()):
            number += 1
            send(lanes, number, now, live=False)
        now += len(lanes.back_sent) * S // 100
        confirm(lanes, *range(number + 1), now_ns=now)
    assert 5 <= lanes.back_window <= 16, lanes.back_window


def test_a_way_that_became_longer_is_the_measure_after_a_while() -> None:
    lanes = Lanes(10_000, replace(TIMING, window=64), 0)
    now = number = 0

    def round_of(took_ns: int) -> None:
        nonlocal now, number
        for _ in range(lanes.back_room()):
            number += 1
            send(lanes, number, now, live=False)
        now += took_ns
        confirm(lanes, *range(number + 1), now_ns=now)

    round_of(S // 50)
    for _ in range(20):
        round_of(S // 2)
    assert lanes.back_window == 1
    for _ in range(80):
        round_of(S // 2)
    assert lanes.back_window > 16


# ---------------------------------------------------------------- what is overdue


def test_a_lost_frame_is_overdue_although_others_arrive() -> None:
    lanes = Lanes(0, TIMING, 0)
    send(lanes, 1, 0)
    now = 0
    for number in range(2, 100):
        now += 2 * S
        send(lanes, number, now)
        confirm(lanes, number, now_ns=now)
        if lanes.stalled(now):
            break
    assert 60 * S < now <= 62 * S


def test_a_frame_lost_of_an_ended_epoch_is_overdue_although_the_new_one_moves() -> None:
    lanes = Lanes(0, TIMING, 0, selective=False)
    send(lanes, 1, 0, epoch=6)
    now = 0
    for number in range(2, 100):
        now += 2 * S
        send(lanes, number, now)
        if lanes.stalled(now):
            break
        lanes.confirm(lambda entry: entry.epoch == 7, now)
    assert lanes.stalled(now)
    assert now <= 62 * S


def test_while_a_backlog_drains_in_order_the_live_lane_behind_it_is_no_stall() -> None:
    lanes = Lanes(100, TIMING, 0, selective=False)
    send(lanes, 101, 0)
    now = 0
    for number in range(1, 101):
        now += 2 * S
        send(lanes, number, now, live=False, epoch=6)
        confirm(lanes, number, now_ns=now)
        assert not lanes.stalled(now)
    lanes.sweeps.clear()
    assert not lanes.stalled(now + 59 * S)
    assert lanes.stalled(now + 61 * S)


def test_a_slow_way_is_no_loss() -> None:
    lanes = Lanes(0, replace(TIMING, resend_s=1.0), 0)
    send(lanes, 1, 0)
    confirm(lanes, 1, now_ns=S)  # one second there and back: the patience is four
    send(lanes, 2, S)
    assert not lanes.stalled(5 * S)
    assert lanes.stalled(5 * S + 1)


def test_a_stall_goes_back_and_slows_down_and_progress_speeds_up() -> None:
    lanes = Lanes(10, TIMING, 0)
    now = 0
    for _ in range(10):
        send(lanes, 1, now, live=False)
        wait = lanes.resend_ns
        assert not lanes.stalled(now + wait)
        now += wait + 1
        assert lanes.stalled(now)
        lanes.go_back(10, now)
        assert (lanes.sweeps[0].after, lanes.window, lanes.back_window) == (0, 1, 1)
    assert lanes.resend_ns == 64 * 60 * S, "the wait doubles, up to a limit"
    for window in (2, 4, 8, 8):
        send(lanes, 1, now, live=False)
        confirm(lanes, 1, now_ns=now)
        assert lanes.window == window
    assert lanes.resend_ns == 60 * S


def test_after_two_stalls_in_a_row_the_oldest_goes_first() -> None:
    lanes = Lanes(10, TIMING, 0, newest_first=True)
    lanes.go_back(10, 0)
    assert lanes.sweeps[-1].newest_first
    lanes.go_back(12, 0)
    assert lanes.sweeps[-1] == Sweep(0, 13)
    assert lanes.live == 12


def test_confirming_nothing_changes_nothing() -> None:
    lanes = Lanes(10, TIMING, 0)
    send(lanes, 1, 0, live=False)
    assert lanes.confirm(nothing, 100 * S) == []
    assert lanes.progress_ns == 0
