"""Whoever has the second link: a broker of their own, and what it was brought.

The link lets a frame go when the broker has taken it (`Ack: broker`), so what this broker took
counts as delivered, even if it dies a moment later.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

from gateway.core.records import Gap
from sync import topics, wire
from tests.sim import plant

NAME: Final = "customer"  # of the link
FORMATS: Final = ("json", "gatepost")


class Customer:
    """Every number that came, by epoch and sequence, and every gap that was declared."""

    def __init__(self) -> None:
        self.held: dict[int, dict[int, Any]] = {}
        self.gaps: dict[int, list[Gap]] = {}
        self.contradictions: list[str] = []
        self._reached: dict[int, int] = {}
        self._declared: dict[int, set[int]] = {}
        self._tags = {point.index: point.tag for point in plant.prepared()[0].points}

    def heard(self, topic: str, payload: bytes) -> None:
        """The broker took a message."""
        found = topics.parse(topic)
        if found is None:
            self._document(json.loads(payload))
        elif found[1] in ("frames", "backlog"):
            self._frame(payload)

    def _frame(self, payload: bytes) -> None:
        batch = wire.decode_frame(payload).batch
        for seq, point, code, value, utc_ns in batch.records.tolist():
            self._row(batch.epoch, seq, (self._tags[point], struct.pack("d", value), code, utc_ns))
        for event in batch.events:
            self._row(batch.epoch, event.seq, (event.kind, event.utc_ns, dict(event.body)))
        for gap in batch.gaps:
            self._gap(batch.epoch, gap)

    def _document(self, said: dict[str, Any]) -> None:
        if said["type"] == "values":
            for row in said["values"]:
                value = struct.pack("d", float("nan") if row["value"] is None else row["value"])
                what = (row["tag"], value, row["code"], row["utc_ns"])
                self._row(said["epoch"], row["seq"], what)
        elif said["type"] == "event":
            self._row(said["epoch"], said["seq"], (said["kind"], said["utc_ns"], said["body"]))
        elif said["type"] == "gap":
            self._gap(said["epoch"], Gap(said["first"], said["last"] or 0, said["reason"]))

    def _row(self, epoch: int, seq: int, what: Any) -> None:
        """It may come twice, but never with another value."""
        if self.held.setdefault(epoch, {}).setdefault(seq, what) != what:
            self.contradictions.append(f"customer: epoch {epoch}: {seq} came with two values")

    def _gap(self, epoch: int, gap: Gap) -> None:
        gaps = self.gaps.setdefault(epoch, [])
        if gap not in gaps:
            gaps.append(gap)
            if gap.last:
                declared = self._declared.setdefault(epoch, set())
                declared.update(range(gap.first, gap.last + 1))

    def contiguous(self, epoch: int) -> int:
        """The sequence up to which all came, or lies in a gap."""
        reached = self._reached.get(epoch, 0)
        held, declared = self.held.get(epoch, {}), self._declared.get(epoch, set())
        while reached + 1 in held or reached + 1 in declared:
            reached += 1
        self._reached[epoch] = reached
        return reached
