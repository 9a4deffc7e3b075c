"""Room and age: what the store gives up, in which order, and what it never does."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.core.records import RECORD, Batch, Birth, Event
from sync import wire
from sync.errors import StoreFull
from sync.store import quota, thin
from sync.store.store import Store
from tests.sync.holding import declared, held, numbers

QUOTA_BYTES = 10_000_000
BIRTH = "0123456789abcdef"
BEGIN_NS = 1_763_700_000_000_000_000
POINTS = 200
COUNTERS = range(1, 6)  # kWh, once a minute
DISCRETE = range(6, 11)
EVENT_EVERY_S = 600


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: sizes are judged here, and a flush costs nothing."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="gatepost-", dir=memory) as name:
        yield Path(name)


def birth() -> Birth:
    """200 points: five that count, five that switch, all others analogue."""
    points = tuple(
        {
            "index": n,
            "tag": f"Plant.Point_{n}",
            "kind": "discrete" if n in DISCRETE else "analog",
            "counter": n in COUNTERS,
        }
        for n in range(1, POINTS + 1)
    )
    return Birth("lab", 1, 0, BIRTH, "c0ffee", BEGIN_NS, points)


class Plant:
    """Numbers what 200 points do, second by second; tells what must never be lost."""

    def __init__(self, *, per_second: int = POINTS) -> None:
        self.chance = np.random.default_rng(4)
        self.walk = self.chance.uniform(0, 900, POINTS + 1)
        self.per_second = per_second
        self.second = 0
        self.next = 1
        self.counted: list[int] = []
        self.events: list[int] = []

    def batch(self, seconds: int) -> Batch:
        """The next seconds in one batch."""
        parts, events, first = [], [], self.next
        for _ in range(seconds):
            utc_ns = BEGIN_NS + self.second * 1_000_000_000
            points = np.arange(POINTS - self.per_second + 11, POINTS + 1)
            if self.second % 60 == 0:
                points = np.append(points, [*COUNTERS])
                self.counted += range(self.next + len(points) - 5, self.next + len(points))
            self.walk[points] += self.chance.normal(0, 0.3, len(points))
            rows = np.zeros(len(points), dtype=RECORD)
            rows["seq"] = np.arange(self.next, self.next + len(points))
            rows["point"], rows["utc_ns"] = points, utc_ns
            rows["value"] = np.round(self.walk[points], 4)
            self.next += len(points)
            parts.append(rows)
            if self.second % EVENT_EVERY_S == 0:
                events.append(Event(self.next, utc_ns, "alarm", {"rule": f"at {self.second}"}))
                self.events.append(self.next)
                self.next += 1
            self.second += 1
        return Batch(1, first, self.next - 1, BIRTH, np.concatenate(parts), tuple(events))


def all_files(store: Store) -> int:
    """Bytes of everything that lies beside the store, as the file system has it."""
    return sum(name.stat().st_size for name in store.path.parent.iterdir())


def check_whole(store: Store, plant: Plant) -> None:
    """Every number is a row, an event or in a gap; events and counters are all there."""
    frames = held(store)
    events = [event.seq for frame in frames for event in frame.batch.events]
    assert events == plant.events
    kept = set(numbers(store))
    assert kept.issuperset(plant.counted)
    at = 1
    for frame in frames:
        assert frame.batch.first == at, "a frame does not follow the one before"
        at = frame.batch.last + 1
    assert at == plant.next


def test_a_day_without_a_link_keeps_the_quota_and_events_and_counters(tmp_path: Path) -> None:
    # 24 hours of 90 values a second, a batch every minute: almost 8 million values.
    store = Store(tmp_path / "link.sqlite", quota_bytes=QUOTA_BYTES)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    plant = Plant(per_second=100)
    highest = 0
    while plant.second < 86_400:
        store.append(plant.batch(60))
        highest = max(highest, all_files(store))
    assert highest <= QUOTA_BYTES * 1.01
    assert highest > QUOTA_BYTES * 0.8, "most of the quota was never used"
    check_whole(store, plant)
    assert store.usage().thinned > 1_000_000
    assert store.usage().used_bytes == all_files(store)
    # The newest hour has every value, and each hour of the day has some of every point.
    kept = numbers(store)
    assert len([n for n in kept if n > plant.next - 90 * 3600]) >= 90 * 3600 - 100
    rows = np.concatenate([frame.batch.records for frame in held(store)])
    hours = (rows["utc_ns"] - BEGIN_NS) // 3_600_000_000_000
    assert all(len(np.unique(rows["point"][hours == hour])) == 95 for hour in range(24))
    store.close()
    again = Store(tmp_path / "link.sqlite", quota_bytes=QUOTA_BYTES)
    assert again.backlog().records == len(kept) + len(plant.events)
    again.close()


def test_the_oldest_values_lose_resolution_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "link.sqlite", quota_bytes=2_000_000)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    plant = Plant(per_second=100)
    for _ in range(480):
        store.append(plant.batch(30))
    rows = np.concatenate([frame.batch.records for frame in held(store)])
    hours = (rows["utc_ns"] - BEGIN_NS) // 3_600_000_000_000
    counts = np.bincount(hours, minlength=4)
    assert list(counts) == sorted(counts), "a newer hour has fewer values than an older one"
    assert counts[0] < counts[-1] / 5
    # What stays of an analogue point in a window is its last value there.
    one = rows[(rows["point"] == 150) & (hours == 2)]
    seconds = (one["utc_ns"] - BEGIN_NS) // 1_000_000_000
    assert len(one) == 0 or set(np.diff(seconds)) <= {1, 10, 60, 600} | set(range(1, 601))
    assert {gap.reason for gap in declared(store)} == {quota.REASON_QUOTA}
    check_whole(store, plant)
    store.close()


@pytest.mark.parametrize("level", range(1, thin.GONE + 1))
def test_what_stays_at_a_level(level: int) -> None:
    plant = Plant()
    rows = plant.batch(1800).records
    kinds = thin.Kinds.of(birth().points)
    kept = rows[thin.keep(rows, kinds, level)]
    counters = np.isin(kept["point"], [*COUNTERS])
    assert np.count_nonzero(counters) == 5 * 30
    analogue = kept[~counters]
    if level == thin.GONE:
        assert len(analogue) == 0
        return
    window_s = thin.WINDOWS_NS[level] // 1_000_000_000
    seconds = (analogue["utc_ns"] - BEGIN_NS) // 1_000_000_000
    assert set(seconds.tolist()) == set(range(window_s - 1, 1800, window_s))
    assert len(analogue) == 190 * 1800 // window_s


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("level", range(1, thin.GONE))
def test_the_last_value_of_each_point_in_a_window_stays(seed: int, level: int) -> None:
    # Points of all kinds and speeds, before 1970 too, with bad qualities and times out of order.
    chance = np.random.default_rng(seed)
    count = int(chance.integers(1, 400))
    rows = np.zeros(count, dtype=RECORD)
    rows["seq"] = np.arange(1, count + 1)
    rows["point"] = np.minimum(chance.geometric(0.15, count), 30)
    rows["utc_ns"] = np.cumsum(chance.exponential(3e9, count)) - 300e9
    rows["utc_ns"] += chance.integers(-5_000_000_000, 5_000_000_000, count) * (seed % 2)
    rows["status"] = np.where(chance.random(count) < 0.2, 0x80000000, 0)
    kept = rows[thin.keep(rows, thin.Kinds.of(birth().points), level)]
    last: dict[tuple[int, int], int] = {}
    always: set[int] = set()
    before: dict[int, int] = {}
    for row in rows:
        point, status, seq = int(row["point"]), int(row["status"]), int(row["seq"])
        last[point, int(row["utc_ns"]) // thin.WINDOWS_NS[level]] = seq
        if point in COUNTERS or point in DISCRETE or before.get(point, status) != status:
            always.add(seq)
        before[point] = status
    found = set(kept["seq"].tolist())
    assert found >= always | set(last.values())
    if seed % 2 == 0:
        assert found == always | set(last.values())
    assert kept.tobytes() == rows[np.isin(rows["seq"], kept["seq"])].tobytes()


def test_a_change_of_quality_stays_where_values_thin_out() -> None:
    rows = np.zeros(10, dtype=RECORD)
    rows["seq"], rows["point"] = np.arange(1, 11), 100
    rows["utc_ns"] = BEGIN_NS
    rows["status"][4] = 0x80000000
    kept = rows[thin.keep(rows, thin.Kinds.of(birth().points), 1)]
    assert kept["seq"].tolist() == [5, 6, 10]


def test_only_events_and_counters_pass_the_quota(tmp_path: Path) -> None:
    store = Store(tmp_path / "link.sqlite", quota_bytes=1_000_000)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    text = "x" * 2000
    for number in range(600):
        first = number * 3 + 1
        rows = np.zeros(2, dtype=RECORD)
        rows["seq"], rows["point"] = [first, first + 1], [1, 100]
        rows["value"], rows["utc_ns"] = number, BEGIN_NS + number * 1_000_000_000
        event = Event(first + 2, BEGIN_NS, "alarm", {"text": text, "number": number})
        store.append(Batch(1, first, first + 2, BIRTH, rows, (event,)))
    frames = held(store)
    assert sum(len(frame.batch.events) for frame in frames) == 600
    assert set(range(1, 1801, 3)) <= set(numbers(store)), "a counter's value is gone"
    assert len(numbers(store)) < 700, "analogue values were kept although events had no room"
    store.close()


def test_values_older_than_the_age_limit_go_and_counters_stay(tmp_path: Path) -> None:
    hour_ns = 3_600_000_000_000
    store = Store(tmp_path / "link.sqlite", quota_bytes=10**9, age_max_ns=hour_ns)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    plant = Plant(per_second=20)
    for _ in range(360):
        store.append(plant.batch(20))
    rows = np.concatenate([frame.batch.records for frame in held(store)])
    analogue = rows[~np.isin(rows["point"], [*COUNTERS])]
    ages_s = (rows["utc_ns"].max() - analogue["utc_ns"]) / 1e9
    assert ages_s.max() < 3600 + 600  # a frame goes as a whole
    assert len(analogue) >= 10 * 3600
    assert {gap.reason for gap in declared(store)} == {quota.REASON_AGE}
    assert store.usage().aged > 0
    check_whole(store, plant)
    store.close()


def test_values_of_a_clock_that_is_not_set_are_not_given_up_for_their_age(tmp_path: Path) -> None:
    store = Store(tmp_path / "link.sqlite", quota_bytes=10**9, age_max_ns=10**9)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    plant = Plant(per_second=20)
    first = plant.batch(10)
    first.records["utc_ns"] -= BEGIN_NS  # 1970
    store.append(first)
    for _ in range(10):
        store.append(plant.batch(10))
    assert set(first.records["seq"].tolist()) <= set(numbers(store))
    store.close()


@pytest.mark.parametrize("wrong", [slice(0, 3), slice(None)], ids=["a device's", "the gateway's"])
def test_a_clock_that_is_far_ahead_makes_nothing_old(tmp_path: Path, wrong: slice) -> None:
    path, age_max_ns = tmp_path / "link.sqlite", 86_400 * 10**9
    store = Store(path, quota_bytes=10**9, age_max_ns=age_max_ns)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    plant = Plant(per_second=20)
    for _ in range(100):
        store.append(plant.batch(20))
    for at in range(60):
        if at == 30:  # nor does a start
            store.close()
            store = Store(path, quota_bytes=10**9, age_max_ns=age_max_ns)
        batch = plant.batch(1)
        batch.records["utc_ns"][wrong] += 10 * 365 * 86_400 * 10**9
        store.append(batch)
    for _ in range(10):
        store.append(plant.batch(1))
    assert declared(store) == []
    check_whole(store, plant)
    store.close()


def test_a_program_that_reads_for_long_bounds_the_log_and_not_what_is_stored(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "link.sqlite", quota_bytes=2_000_000)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    plant = Plant()
    store.append(plant.batch(5))
    reader = sqlite3.connect(store.path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM frames").fetchone()
    log = store.path.with_name("link.sqlite-wal")
    waiting = plant.batch(5)
    for _ in range(1000):
        try:
            store.append(waiting)
        except StoreFull:
            break
        waiting = plant.batch(5)
    else:
        pytest.fail("the log has no bound")
    assert log.stat().st_size < 1_000_000
    with pytest.raises(StoreFull, match="reading the store for long"):
        store.append(waiting)
    reader.close()
    store.append(waiting)
    store.append(plant.batch(5))
    assert log.stat().st_size < 200_000
    check_whole(store, plant)
    store.close()


def test_small_frames_that_wait_become_few(tmp_path: Path) -> None:
    store = Store(tmp_path / "link.sqlite", quota_bytes=10**9)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    plant = Plant(per_second=25)
    before = [plant.batch(1) for _ in range(1000)]
    for batch in before[:10]:
        store.append(batch)
    assert store.renumbered == 0
    for batch in before[10:]:
        store.append(batch)
    assert store.renumbered > 0  # whoever walks over the ids has to look again
    frames = held(store)
    assert len(frames) < 250
    check_whole(store, plant)
    rows = np.concatenate([frame.batch.records for frame in frames])
    assert rows.tobytes() == np.concatenate([b.records for b in before]).tobytes()
    assert declared(store) == []
    # Frames with events stay by themselves: they go first.
    assert all(len(f.batch.records) < 50 for f in frames if f.batch.events)
    store.close()


def test_a_confirmation_of_a_frame_that_was_joined_means_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "link.sqlite", quota_bytes=1_000_000)
    store.put_birth(BIRTH, wire.encode_birth(birth()))
    plant = Plant(per_second=100)
    for _ in range(10):
        store.append(plant.batch(1))
    under_way = [frame.id for frame in store.pending("cloud", 0, 9)]
    for _ in range(400):
        store.append(plant.batch(20))
    assert store.discard("cloud", under_way) == 0
    check_whole(store, plant)
    store.close()


def test_a_smaller_quota_is_kept_from_the_next_start_on(tmp_path: Path) -> None:
    path = tmp_path / "link.sqlite"
    plant = Plant()
    with_room = Store(path, quota_bytes=10**9)
    with_room.put_birth(BIRTH, wire.encode_birth(birth()))
    for _ in range(200):
        with_room.append(plant.batch(20))
    with_room.close()
    store = Store(path, quota_bytes=1_000_000)
    assert all_files(store) <= 1_010_000
    check_whole(store, plant)
    store.close()
