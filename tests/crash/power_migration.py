"""A store of the first schema is brought to the present one, and the power goes meanwhile."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import zlib
from pathlib import Path
from typing import Final

from sync import wire
from tests.crash.power_store import BIRTHS, LINKS, StoreLife, StoreTruth, batch, birth

# As gateways up to version 0.1 made it (schema 1).
SCHEMA_1: Final = """
CREATE TABLE frames (id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, records INTEGER NOT NULL,
    events INTEGER NOT NULL, birth TEXT NOT NULL, utc_ns INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE [bodies] ([id] INTEGER PRIMARY KEY, [crc] INTEGER, [body] BLOB);
CREATE TABLE [births] ([turn] INTEGER PRIMARY KEY, [hash] TEXT, [body] BLOB);
CREATE TABLE [cursors] ([epoch] INTEGER PRIMARY KEY, [seq] INTEGER, [turn] INTEGER);
PRAGMA user_version = 1;
"""
FRAMES: Final = 40
NUMBERS: Final = 200  # of a frame


def write_schema_1(path: Path, acknowledged: int = 0) -> None:
    """A store of 40 frames of epoch 1, the first of which have been acknowledged."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode=WAL").fetchall()
        conn.executescript(SCHEMA_1)
        conn.execute(
            "INSERT INTO births VALUES (1, ?, ?)", (BIRTHS[0], wire.encode_birth(birth(BIRTHS[0])))
        )
        conn.execute("INSERT INTO cursors VALUES (1, ?, 1)", (FRAMES * NUMBERS,))
        for at in range(FRAMES):
            made = batch(1, NUMBERS * at + 1, NUMBERS, BIRTHS[0])
            body = wire.encode_body(made)
            events = len(made.events)
            sums = (len(made.records) + events, events)
            values = (1, made.first, made.last, *sums, BIRTHS[0], int(made.records["utc_ns"].min()))
            conn.execute(
                "INSERT INTO frames (epoch, first, last, records, events, birth, utc_ns, bytes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, len(body) + 128),
            )
            conn.execute("INSERT INTO bodies VALUES (?, ?, ?)", (at + 1, zlib.crc32(body), body))
        for table in ("frames", "bodies"):
            conn.execute(f"DELETE FROM {table} WHERE id <= ?", (acknowledged,))


class MigrationLife(StoreLife):
    """The first start of this version on an older version's store."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "migration"

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], StoreTruth]:
        """See `Life`."""
        path = folder / "link.sqlite"
        gone = chance.randint(0, FRAMES // 2)
        write_schema_1(path, gone)
        truth = StoreTruth(birth=BIRTHS[0])
        truth.durable[1] = truth.begun[1] = FRAMES * NUMBERS
        truth.released = {(link, 1): gone * NUMBERS for link in LINKS}
        return {path.name: path.read_bytes()}, truth
