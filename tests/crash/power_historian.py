"""The historian's file under power cuts."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from cloud.historian import HistorianError
from cloud.historian_sqlite import SqliteHistorian
from cloud.stream import HistorianStream
from gateway.core.records import RECORD
from sync import wire
from tests.crash.power_cuts import Broken
from tests.crash.power_disk import Mark, Recorder
from tests.crash.power_store import BIRTHS, EVENT_EVERY, batch, birth, rows

STREAMS: Final = (("lab", 1), ("lab", 2), ("roof", 1))
NO_ROWS: Final = np.zeros(0, dtype=RECORD)


@dataclass
class HistorianTruth:
    """What a historian has promised: gateway and epoch -> up to which number it is durable."""

    durable: dict[tuple[str, int], int] = field(default_factory=dict)
    begun: dict[tuple[str, int], int] = field(default_factory=dict)


class HistorianLife:
    """Commits of one frame and of several gateways' frames together, closing and opening."""

    name = "historian"

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], HistorianTruth]:
        """Nothing is held."""
        return {}, HistorianTruth()

    def live(
        self, folder: Path, truth: HistorianTruth, chance: random.Random, recorder: Recorder
    ) -> None:
        """A few sessions."""
        for _ in range(chance.randint(1, 3)):
            with contextlib.closing(SqliteHistorian(folder / "historian.sqlite")) as historian:
                for gateway in ("lab", "roof"):
                    historian.store_birth(gateway, birth(BIRTHS[0]))
                for _ in range(chance.randint(5, 12)):
                    self._step(historian, truth, chance, recorder)

    def _step(
        self,
        historian: SqliteHistorian,
        truth: HistorianTruth,
        chance: random.Random,
        recorder: Recorder,
    ) -> None:
        frames, ends = [], {}
        for key in chance.sample(STREAMS, chance.randint(1, 3)):
            first = truth.durable.get(key, 0) + 1
            if first > 1 and chance.random() < 0.2:
                first = chance.randint(1, first)  # a frame that comes again
            count = chance.choice((1, 20, 150, 600))
            made = batch(key[1], first, count, BIRTHS[0])
            payload = wire.wrap_body(wire.encode_body(made), base=1)
            frames.append((key[0], wire.decode_frame(payload)))
            ends[key] = max(made.last, truth.durable.get(key, 0))
        recorder.mark("begun", ends)
        historian.commit_frames(frames)
        recorder.mark("durable", ends)
        truth.durable |= ends

    def promise(self, truth: HistorianTruth, mark: Mark) -> None:
        """See `Life`."""
        {"begun": truth.begun, "durable": truth.durable}[mark.what].update(mark.value)

    def check(self, folder: Path, truth: HistorianTruth, chance: random.Random) -> None:
        """Open it: what was committed is there, once, with its value, and acknowledged no more."""
        try:
            with contextlib.closing(SqliteHistorian(folder / "historian.sqlite")) as historian:
                for key in STREAMS:
                    self._check_epoch(historian, truth, *key)
                for gateway in historian.gateways():
                    self._check_rows(historian.path, truth, gateway)
        except HistorianError as error:
            raise Broken(f"it does not open: {error!r}") from error

    def _check_epoch(
        self, historian: SqliteHistorian, truth: HistorianTruth, gateway: str, epoch: int
    ) -> None:
        end = historian.contiguous(gateway, epoch)
        if (
            not truth.durable.get((gateway, epoch), 0)
            <= end
            <= truth.begun.get((gateway, epoch), 0)
        ):
            raise Broken(f"{gateway} {epoch}: it acknowledges {end}, promised were {truth}")
        for audit in historian.audit(gateway).epochs:
            if audit.epoch == epoch and (audit.missing or audit.duplicates or audit.last != end):
                raise Broken(f"{gateway} {epoch}: {audit}")
        truth.durable[gateway, epoch] = end

    def _check_rows(self, path: Path, truth: HistorianTruth, gateway: str) -> None:
        """Every value that is acknowledged is there, and is what was committed."""
        with contextlib.closing(HistorianStream(path)) as stream:
            parts = [part for part, _ in stream.rows(gateway, None)]
        numbers = [
            np.arange(1, end + 1, dtype=np.uint64)
            for (name, _), end in sorted(truth.durable.items())
            if name == gateway
        ]
        epochs = [epoch for name, epoch in sorted(truth.durable) if name == gateway]
        expected = [
            rows(epoch, some[some % EVENT_EVERY != 0])
            for epoch, some in zip(epochs, numbers, strict=True)
        ]
        for field_ in ("seq", "value", "utc_ns", "status"):
            found = np.concatenate([part[field_] for part in [NO_ROWS, *parts]])
            wanted = np.concatenate([part[field_] for part in [NO_ROWS, *expected]])
            if not np.array_equal(found, wanted):
                raise Broken(f"{gateway}: a value's {field_} is another one than that committed")
