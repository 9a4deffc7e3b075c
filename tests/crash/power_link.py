"""The bound of docs/durability.md: what a power cut may take from the link process, in time."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.frames import FrameBuilder
from sync import wire
from sync.errors import StoreError
from sync.store.store import Store
from tests.crash.power_cuts import Broken
from tests.crash.power_disk import Mark, Recorder
from tests.crash.power_store import AMPLE_BYTES, BIRTHS, batch, birth

INTERVAL_NS: Final = 500_000_000  # Store.FrameInterval
RECORDS_MAX: Final = 5_000  # Store.FrameRecordsMax
SESSION_NS: Final = 6_000_000_000


@dataclass
class LinkTruth:
    """When which number was given: [(virtual time in ns, the last number so far)]."""

    now_ns: int = 0
    numbered: list[tuple[int, int]] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The last number."""
        return self.numbered[-1][1] if self.numbered else 0


class LinkLife:
    """Records arrive in virtual time and are stored when their frame is due."""

    name = "bound"

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], LinkTruth]:
        """Nothing is numbered."""
        return {}, LinkTruth()

    def live(
        self, folder: Path, truth: LinkTruth, chance: random.Random, recorder: Recorder
    ) -> None:
        """A session; what was numbered and not stored is gone with the one before."""
        with contextlib.closing(Store(folder / "link.sqlite", quota_bytes=AMPLE_BYTES)) as store:
            store.put_birth(BIRTHS[0], wire.encode_birth(birth(BIRTHS[0])))
            cursor = store.cursor()
            last = cursor[1] if cursor else 0
            frames = FrameBuilder(INTERVAL_NS, RECORDS_MAX)
            end_ns = truth.now_ns + SESSION_NS
            arrives_ns = truth.now_ns
            while truth.now_ns < end_ns:
                if frames.due_in_ns(truth.now_ns) <= 0:
                    joined = frames.take()
                    assert joined is not None
                    store.append(joined)
                    recorder.mark("time", truth.now_ns)
                if truth.now_ns == arrives_ns:
                    count = chance.randint(1, 30)
                    frames.add(batch(1, last + 1, count, BIRTHS[0]), truth.now_ns)
                    last += count
                    recorder.mark("numbered", (truth.now_ns, last))
                    arrives_ns += chance.randint(10, 400) * 1_000_000
                truth.now_ns += min(frames.due_in_ns(truth.now_ns), arrives_ns - truth.now_ns)
                recorder.mark("time", truth.now_ns)

    def promise(self, truth: LinkTruth, mark: Mark) -> None:
        """See `Life`."""
        if mark.what == "time":
            truth.now_ns = mark.value
        else:
            truth.now_ns = mark.value[0]
            truth.numbered.append(mark.value)

    def check(self, folder: Path, truth: LinkTruth, chance: random.Random) -> None:
        """What is lost is no older than the interval."""
        try:
            with contextlib.closing(Store(folder / "link.sqlite", quota_bytes=AMPLE_BYTES)) as kept:
                cursor = kept.cursor()
        except StoreError as error:
            raise Broken(f"it does not open: {error!r}") from error
        stored = cursor[1] if cursor else 0
        for at_ns, last in truth.numbered:
            age_ns = truth.now_ns - at_ns
            if last > stored and age_ns > INTERVAL_NS:
                raise Broken(f"{last} was numbered {age_ns / 1e9:g} s before the cut, and is lost")
        truth.numbered = [(at_ns, last) for at_ns, last in truth.numbered if last <= stored]
