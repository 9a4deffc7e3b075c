"""What a message is worth, case by case, and what time it is when clocks step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from config.command_keys import parse_keys
from gateway.core.clock import UTC_PLAUSIBLE_NS
from sync.remote import judge, signed
from sync.remote.floods import Floods, Pace
from sync.remote.judge import DOUBT_NS, REASON_CHARS_MAX, SKEW_NS, Rules, Wall
from tests.sync.commanding import (
    KEY,
    NOW,
    OTHER,
    PRIVATE,
    SITE,
    WRITE,
    S,
    entry,
    envelope,
    message,
)

KEYS = parse_keys({"Keys": [entry()]})[0]
RULES = Rules(SITE, KEYS, "", 600 * S)


def refusal(
    rules: Rules = RULES, now_ns: int = NOW, channel: str = "commands", **other: Any
) -> str:
    return judge.judge(message(**other), channel, rules, now_ns).refusal


def test_a_good_message_is_current_and_proven() -> None:
    verdict = judge.judge(message(), "commands", RULES, NOW)
    assert verdict == judge.Verdict(
        KEY, envelope(), KEYS[KEY], "", ("Battery.Power",), current=True
    )


def test_the_edges_of_time() -> None:
    assert refusal(now_ns=NOW + 60 * S - 1) == ""
    assert "expired" in refusal(now_ns=NOW + 60 * S)
    assert refusal(now_ns=NOW - SKEW_NS) == ""
    assert "ahead" in refusal(now_ns=NOW - SKEW_NS - 1)
    assert refusal(expires_ns=NOW + 600 * S) == ""
    assert "ExpiresMax" in refusal(expires_ns=NOW + 600 * S + 1)
    assert "clock is not set" in refusal(now_ns=UTC_PLAUSIBLE_NS - 1)


def test_what_may_have_been_forgotten_is_refused() -> None:
    assert "forgotten" in refusal(replace(RULES, floor_ns=NOW + 60 * S))
    assert refusal(replace(RULES, floor_ns=NOW + 60 * S - 1)) == ""
    assert "began to remember" in refusal(replace(RULES, since_ns=NOW + 1))
    assert refusal(replace(RULES, since_ns=NOW)) == ""


def test_only_what_its_sender_has_to_answer_for_is_current() -> None:
    """The rest anybody may repeat, so it takes nothing of what a key is allowed."""
    for other in ({"destination": "x"}, {"now_ns": NOW - 90 * S}, {"now_ns": NOW + 90 * S}):
        assert not judge.judge(message(**other), "commands", RULES, NOW).current
    assert judge.judge(message(payload=None), "commands", RULES, NOW).current


@pytest.mark.parametrize("kind", signed.TYPES)
@pytest.mark.parametrize("channel", judge.CHANNELS)
def test_each_type_has_its_topic(kind: str, channel: str) -> None:
    payloads: dict[str, Any] = {"schedule": {"points": {}}, "query": {"commands": []}}
    other = {"payload": payloads[kind]} if kind in payloads else {}
    found = refusal(type=kind, channel=channel, **other)
    assert (found == "") == (kind in judge.CHANNELS[channel])


def test_a_schedule_needs_the_right_to_each_of_its_points() -> None:
    points = {"Battery.Power": [[1, 1.0]], "Feeder.Limit": [[1, 1.0]]}
    found = refusal(type="schedule", channel="schedule", payload={"points": points})
    assert found == "the key 'market' may not set Feeder.Limit"


def test_reasons_are_short_whatever_came() -> None:
    long = signed.sign(b"\x81\xa2id" + b"\xda\xff\xff" + b"x" * 65_535, KEY, PRIVATE)
    found = judge.judge(long, "commands", RULES, NOW)
    assert 0 < len(found.refusal) <= REASON_CHARS_MAX
    assert found.proven is not None and not found.current


# ---------------------------------------------------------------- clocks


def test_a_step_back_is_doubted_for_a_while() -> None:
    wall = Wall()
    assert wall.now_ns(NOW, 0) == NOW
    assert wall.now_ns(NOW + S - 3600 * S, S) == NOW + S
    assert wall.now_ns(NOW + 9 * S - 3600 * S, 9 * S) == NOW + 9 * S
    late = DOUBT_NS + S
    assert wall.now_ns(NOW + late - 3600 * S, late) == NOW + late - 3600 * S


def test_a_step_back_that_is_undone_is_no_matter() -> None:
    wall = Wall()
    wall.now_ns(NOW, 0)
    wall.now_ns(NOW - 3600 * S, S)
    assert wall.now_ns(NOW + 2 * S, 2 * S) == NOW + 2 * S


def test_several_steps_add_up() -> None:
    wall = Wall()
    wall.now_ns(NOW, 0)
    wall.now_ns(NOW - 10 * S, 0)
    assert wall.now_ns(NOW - 30 * S, 0) == NOW


def test_a_slewed_clock_has_not_stepped() -> None:
    wall = Wall()
    for second in range(600):
        assert wall.now_ns(NOW + second * S * 999 // 1000, second * S) <= NOW + second * S
    assert wall.stepped_ns == 0


def test_a_signed_time_is_a_bound() -> None:
    wall = Wall(NOW)
    assert wall.now_ns(NOW - 3600 * S, 0) == NOW - SKEW_NS
    assert wall.now_ns(NOW + S, S) == NOW + S


def test_a_bound_goes_on_with_the_time() -> None:
    """Else a clock that stands back would let in what was held back, however late."""
    wall = Wall(NOW)
    wall.now_ns(NOW - 86_400 * S, 0)
    later = wall.now_ns(NOW - 86_400 * S + 1000 * S, 1000 * S)
    assert NOW - SKEW_NS + 999 * S < later <= NOW - SKEW_NS + 1000 * S


def test_a_clock_that_is_not_set_tells_no_time_whatever_is_known() -> None:
    assert Wall(NOW).now_ns(10**9, 0) == 10**9


def test_who_may_sign_can_not_push_the_time_forward() -> None:
    wall = Wall()
    for number in range(1000):
        now_ns = wall.now_ns(NOW + number, number)
        ahead = message(now_ns=now_ns + SKEW_NS)
        assert judge.judge(ahead, "commands", RULES, now_ns).current
        wall.learn(now_ns + SKEW_NS)
    assert wall.now_ns(NOW + 1000, 1000) == NOW + 1000


def test_a_long_body_that_nobody_has_signed_is_not_read() -> None:
    """It takes its reader half a second."""
    body = b"\xdd\x00\x0b\x00\x00" + b"\x80" * 720_896
    unsigned = {"v": 1, "key": KEY, "signature": bytes(64), "body": body}
    assert judge.judge(msgpack.packb(unsigned), "commands", RULES, NOW).envelope is None
    long = envelope(source="x" * 128, payload=[dict(WRITE, comment="c" * 1000)] * 20)
    forged = signed.sign(signed.encode(long), KEY, OTHER)
    assert judge.judge(forged, "commands", RULES, NOW).envelope is None
    assert judge.judge(message(private=OTHER), "commands", RULES, NOW).envelope == envelope()


# ---------------------------------------------------------------- floods


def test_a_gate_fills_again() -> None:
    floods, pace = Floods(), Pace(3, 0.5)
    assert [floods.let("a", pace, 0) for _ in range(5)] == [True, True, True, False, False]
    assert floods.let("b", pace, 0)
    assert [floods.let("a", pace, 4 * S) for _ in range(3)] == [True, True, False]


def test_counts_name_a_few_reasons_and_begin_anew() -> None:
    floods = Floods()
    for number in range(50):
        floods.hold("a", f"expired {number}.5e3 s ago", 0)
    for number in range(20):
        floods.hold("a", "reason " + "x" * number, 0)
    ((who, count, reasons),) = floods.counts()
    assert (who, count) == ("a", 70)
    assert reasons.startswith("50 x expired # s ago; ")
    assert "other reasons" in reasons and len(reasons) < 1_000
    assert list(floods.counts()) == []
