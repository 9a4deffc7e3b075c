"""Everything that promises to survive a power cut, and how many cuts the tests give it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tests.crash.power_archive import ArchiveLife
from tests.crash.power_cuts import Life
from tests.crash.power_files import (
    HandledLife,
    KeeperLife,
    LearnedKeeper,
    RetainKeeper,
    ScheduleKeeper,
)
from tests.crash.power_historian import HistorianLife
from tests.crash.power_link import LinkLife
from tests.crash.power_migration import MigrationLife
from tests.crash.power_store import TIGHT_BYTES, SalvageLife, StoreLife

LIVES: Final[dict[str, tuple[Callable[[], Life[Any]], int]]] = {
    "store": (StoreLife, 375),
    "store over its quota": (partial(StoreLife, quota_bytes=TIGHT_BYTES), 75),
    "salvage": (SalvageLife, 60),
    "migration": (MigrationLife, 75),
    "bound": (LinkLife, 75),
    "archive": (ArchiveLife, 75),
    "historian": (HistorianLife, 150),
    "inbox": (HandledLife, 100),
    "retain": (partial(KeeperLife, RetainKeeper()), 50),
    "schedules": (partial(KeeperLife, ScheduleKeeper()), 50),
    "learned": (partial(KeeperLife, LearnedKeeper()), 50),
}
