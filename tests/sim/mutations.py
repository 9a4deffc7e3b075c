"""Faults in the gateway itself, which the simulation must find: each breaks one promise.

A check that finds none of these would find nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest

from cloud import chunks, spans
from cloud.historian import HistorianError
from cloud.ingest import Ingest
from config.link import CLOUD
from gateway import schedules
from gateway.alarms import Alarms
from gateway.commands import Commands
from gateway.core.records import Batch, Gap
from gateway.core.schedule import Schedule, rank
from gateway.core.table import PointTable
from gateway.field import Field
from gateway.landing import Landing
from gateway.link import Link
from gateway.retain import Retained
from gateway.schedules import Schedules
from safety.engine import Engine
from sync import gaps
from sync.errors import StoreError
from sync.store import thin
from sync.store.async_store import AsyncStore
from sync.store.quota import Quota
from sync.store.store import Store
from tests.sim import plant
from tests.sim.broker import CUSTOMER

ALL: Final = 2**62
BEHIND_FRAMES: Final = 40
Mutation = Callable[[pytest.MonkeyPatch], None]


@dataclasses.dataclass(frozen=True)
class Trial:
    """The shortest run that finds a mutation: kinds of faults, seed, seconds, and what it says."""

    kinds: tuple[str, ...]
    seed: int
    run_s: float
    says: str


def stored_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """The field is told that a frame is durable while it still stands in memory."""
    append = AsyncStore.append

    async def early(store: AsyncStore, batch: Batch) -> int:
        async def later() -> None:
            await asyncio.sleep(2)
            await append(store, batch)

        task = asyncio.create_task(later())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await store.newest()

    patch.setattr(AsyncStore, "append", early)


def full_disk_is_silent(patch: pytest.MonkeyPatch) -> None:
    """What the disk refuses is thrown away, and nobody is told."""
    append = AsyncStore.append

    async def silent(store: AsyncStore, batch: Batch) -> int:
        try:
            return await append(store, batch)
        except StoreError:
            return 0

    patch.setattr(AsyncStore, "append", silent)


def cursor_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A link that comes back does not know what it had of which epoch."""

    async def nothing(store: AsyncStore) -> None:
        return None

    patch.setattr(AsyncStore, "cursor", nothing)


def deleted_on_puback(patch: pytest.MonkeyPatch) -> None:
    """The store lets go of what the broker has taken."""
    site, program, evaluate = plant.prepared()
    entry = site.link.Broker.model_copy(update={"Ack": "broker"})
    link = site.link.model_copy(update={"Broker": entry})
    mutant = (dataclasses.replace(site, link=link), program, evaluate)
    patch.setattr(plant, "prepared", lambda: mutant)


def gap_is_not_declared(patch: pytest.MonkeyPatch) -> None:
    """What ended with the field process is passed over in silence."""

    async def nothing(link: Link, *_: Any) -> None:
        return None

    patch.setattr(Link, "_declare", nothing)


def duplicate_runs_twice(patch: pytest.MonkeyPatch) -> None:
    """A command that comes twice is carried out twice."""
    accept = Commands._accept

    def forgetful(commands: Commands, *arguments: Any) -> None:
        commands._seen.clear()
        accept(commands, *arguments)

    patch.setattr(Commands, "_accept", forgetful)


def expired_runs(patch: pytest.MonkeyPatch) -> None:
    """A command that comes too late is carried out."""
    accept = Commands._accept

    def patient(commands: Commands, command: Any, *arguments: Any) -> None:
        accept(commands, dataclasses.replace(command, expires_ns=0), *arguments)

    patch.setattr(Commands, "_accept", patient)


def lease_never_ends(patch: pytest.MonkeyPatch) -> None:
    """A setpoint holds for ever."""
    patch.setattr(Commands, "_end_leases", lambda *_: None)


def latch_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A restart releases what had latched."""
    patch.setattr(Engine, "restore", lambda *_: None)


def stale_looks_good(patch: pytest.MonkeyPatch) -> None:
    """A silent device goes on with its last values."""
    patch.setattr(Landing, "silent", lambda *_: None)
    patch.setattr(PointTable, "age", lambda *_: None)


def holes_are_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """The historian acknowledges the newest number that it holds."""

    def newest(held: Any) -> int:
        return max((span[1] for span in held), default=0)

    patch.setattr(spans, "contiguous", newest)


def refused_commit_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    """Ingest goes on where its historian could not commit, as if it had."""

    async def once(ingest: Ingest, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await ingest._blocking(work, *arguments)
        except HistorianError:
            return [ALL] * len(arguments[0])  # the end of each frame's epoch, where it was frames

    patch.setattr(Ingest, "_persist", once)


def lives_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Of several lives of the field that no link saw, the last one only is told of."""

    def newest(kept: Retained) -> list[list[int]]:
        return [[kept.epoch, kept.last]] if kept.epoch else []

    patch.setattr(Retained, "past", newest)


def repeated_rows_are_kept(patch: pytest.MonkeyPatch) -> None:
    """A frame that comes twice is stored twice."""

    def all_of_them(numbers: Any, held: Any) -> Any:
        return np.ones(len(numbers), dtype=np.bool_)

    patch.setattr(chunks, "outside", all_of_them)


def slots_come_late(patch: pytest.MonkeyPatch) -> None:
    """A schedule runs half a minute behind the clock."""
    slot_at = schedules.slot_at

    def late(covers: Any, now_ns: int) -> Any:
        return slot_at(covers, now_ns - 30 * 10**9)

    patch.setattr(schedules, "slot_at", late)


def any_clock_is_believed(patch: pytest.MonkeyPatch) -> None:
    """A schedule is carried out by a clock that nobody has set."""
    patch.setattr(Schedules, "_doubt", lambda *_: "")


def day_ahead_wins(patch: pytest.MonkeyPatch) -> None:
    """The older plan goes before its correction."""

    def reversed_rank(schedule: Schedule) -> tuple[int, int, str]:
        kind, issue, name = rank(schedule)
        return -kind, issue, name

    patch.setattr(schedules, "rank", reversed_rank)


def schedules_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A restart begins without the schedules that were accepted."""
    patch.setattr(Schedules, "restore", lambda *_: [])


def schedules_wait_for_the_link(patch: pytest.MonkeyPatch) -> None:
    """While no link is there the slots stand still."""
    init = Field.__init__

    def bound(field: Field, *arguments: Any) -> None:
        init(field, *arguments)
        scan = field.scan.schedules.scan

        def waiting(*now_ns: int) -> None:
            if field.server.link_connected:
                scan(*now_ns)

        patch.setattr(field.scan.schedules, "scan", waiting)

    patch.setattr(Field, "__init__", bound)


def slots_run_again(patch: pytest.MonkeyPatch) -> None:
    """Every look at a slot makes a command of it."""
    visit = Schedules._visit

    def again(made: Schedules, line: Any, *now_ns: int) -> None:
        visit(made, line, *now_ns)
        line.slot = None
        made._due_ns[line.position] = now_ns[1] + 10**9

    patch.setattr(Schedules, "_visit", again)


def one_link_lets_go_for_all(patch: pytest.MonkeyPatch) -> None:
    """What the cloud has leaves the store, whoever else still needs it."""
    acknowledge = Store.acknowledge

    def for_all(store: Store, link: str, epoch: int, seq: int) -> int:
        acknowledge(store, CUSTOMER, epoch, seq)
        return acknowledge(store, link, epoch, seq)

    patch.setattr(Store, "acknowledge", for_all)


def links_wait_for_each_other(patch: pytest.MonkeyPatch) -> None:
    """While one link has a backlog the other one gets nothing."""
    pending = Store.pending

    def together(store: Store, link: str, *arguments: Any, **options: Any) -> Any:
        other = CLOUD if link == CUSTOMER else CUSTOMER
        if store.backlog(other).frames > BEHIND_FRAMES:
            return []
        return pending(store, link, *arguments, **options)

    patch.setattr(Store, "pending", together)


def quota_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The store grows while a link is dead."""
    patch.setattr(Quota, "make_room", lambda *_: None)


def counters_are_thinned(patch: pytest.MonkeyPatch) -> None:
    """What a meter counted goes like any measurement."""
    patch.setattr(Quota, "_kinds_of", lambda *_: thin.NO_KINDS)


def events_are_thinned(patch: pytest.MonkeyPatch) -> None:
    """A full store gives up events, too."""
    without = thin.without

    def all_of_them(batch: Batch, kept: Any, reason: str) -> Batch:
        declared = [Gap(event.seq, event.seq, reason) for event in batch.events]
        found = without(batch, kept, reason)
        joined = gaps.merge([*found.gaps, *declared])
        return dataclasses.replace(found, events=(), gaps=joined)

    patch.setattr(thin, "without", all_of_them)


def thinning_is_silent(patch: pytest.MonkeyPatch) -> None:
    """What a full store gave up is not declared."""
    without = thin.without

    def silent(batch: Batch, *arguments: Any) -> Batch:
        return dataclasses.replace(without(batch, *arguments), gaps=batch.gaps)

    patch.setattr(thin, "without", silent)


def acknowledgements_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A restart calls the operator again for what was acknowledged."""
    patch.setattr(Alarms, "restore", lambda *_: None)


def a_restart_acknowledges(patch: pytest.MonkeyPatch) -> None:
    """Nobody looked, and the alarm is quiet."""
    restore = Alarms.restore

    def quiet(alarms: Alarms, kept: Any) -> None:
        entry = {"state": "acknowledged", "level": "High"}
        restore(alarms, dict.fromkeys(alarms._rules, entry))

    patch.setattr(Alarms, "restore", quiet)


# Each with what brings it to light.
MUTATIONS: Final[dict[Mutation, Trial]] = {
    stored_before_the_commit: Trial(("kill site",), 9, 15, "lost without a gap"),
    full_disk_is_silent: Trial(("disk",), 3, 15, "declared for no reason"),
    cursor_is_forgotten: Trial(("kill field", "kill site"), 3, 15, "lost without a gap"),
    deleted_on_puback: Trial(("broker forgets", "kill ingest"), 1, 15, "not all was delivered"),
    gap_is_not_declared: Trial(("kill field",), 1, 120, "no gap says so"),
    duplicate_runs_twice: Trial(("reset",), 10, 15, "accepted twice"),
    expired_runs: Trial(("reset",), 6, 15, "after its expiry"),
    lease_never_ends: Trial(("reset",), 11, 15, "not what was decided"),
    latch_is_forgotten: Trial(("kill field",), 3, 80, "was latched and is not"),
    stale_looks_good: Trial(("rig", "rig power"), 2, 15, "is shown as good"),
    holes_are_acknowledged: Trial(
        ("broker forgets", "kill ingest", "flapping"), 1, 15, "declared for no reason"
    ),
    repeated_rows_are_kept: Trial(("flapping", "reset"), 1, 15, "duplicates"),
    refused_commit_is_passed_over: Trial(("disk", "kill link"), 2, 40, "declared for no reason"),
    slots_come_late: Trial(("reset",), 2, 15, "a slot is not carried out"),
    any_clock_is_believed: Trial(("clock",), 1, 120, "schedule"),
    day_ahead_wins: Trial(("reset",), 1, 80, "no slot of this time says"),
    schedules_are_forgotten: Trial(("kill field",), 4, 40, "a slot is not carried out"),
    schedules_wait_for_the_link: Trial(
        ("kill link", "freeze"), 6, 120, "no slot of this time says"
    ),
    slots_run_again: Trial(("reset",), 1, 15, "again and again"),
    one_link_lets_go_for_all: Trial(("customer",), 3, 15, "not all was delivered"),
    links_wait_for_each_other: Trial(("customer",), 2, 40, "not all was delivered"),
    quota_is_forgotten: Trial(("outage",), 1, 120, "bytes of the store"),
    counters_are_thinned: Trial(("outage",), 1, 60, "event or counter"),
    events_are_thinned: Trial(("outage",), 1, 60, "event or counter"),
    thinning_is_silent: Trial(("outage",), 1, 60, "not all was delivered"),
    acknowledgements_are_forgotten: Trial(
        ("kill field", "reset", "customer"), 5, 120, "after a restart"
    ),
    a_restart_acknowledges: Trial(("kill field",), 3, 60, "after a restart"),
    lives_are_forgotten: Trial(("kill field", "freeze", "power cut"), 1, 120, "gap"),
}
