"""A Sparkplug form with a host that hears it, for the tests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from config import status
from config.points import POINT
from gateway.core.clock import ManualClock
from gateway.core.records import RECORD, Batch, Birth
from sync import wire
from sync.forms import sparkplug
from sync.forms.sparkplug import SparkplugForm
from sync.link.latest import Latest
from sync.store.store import StoredFrame
from tests.sync.sparkplug_host import Host, Peer
from tests.sync.support import EPOCH

T0_NS = 1_763_700_000_000_000_000
T0_MS = T0_NS // 1_000_000
NOW_NS = T0_NS + 3600 * 10**9
PAUSE_NS = sparkplug.REBIRTH_PAUSE_NS
PLANT = Birth(
    gateway="lab",
    epoch=EPOCH,
    seq=0,
    hash="plant",
    config_hash="c0ffee",
    utc_ns=T0_NS,
    points=(
        {
            "index": 1,
            "tag": "Stack.Temperature",
            "kind": "analog",
            "units": "degC",
            "description": "middle of the stack",
            "value_min": 0.0,
            "value_max": 1200.0,
        },
        {"index": 2, "tag": "Stack.Mode", "kind": "discrete", "states": ["OFF", "ON"]},
        {"index": 3, "tag": "Feed.Flow", "kind": "analog", "value_max": math.nan},
    ),
)
STATE = "spBv1.0/STATE/SCADA"
NCMD = "spBv1.0/Plant/NCMD/edge"


class Edge:
    """A form, the host that hears it, and what stands around."""

    def __init__(self, library: Peer, folder: Path, **options: Any) -> None:
        self.clock = ManualClock(NOW_NS)
        self.latest = Latest()
        self.folder = folder
        self.options = {"host": None, "points": ["*"], **options}
        self.host = Host(library, "Plant", "edge")
        self.form = self.make()

    def make(self) -> SparkplugForm:
        return SparkplugForm(
            self.latest,
            self.clock,
            client_id="gatepost-lab-scada",
            group="Plant",
            node="edge",
            number_file=self.folder / "sparkplug-scada.json",
            **self.options,
        )

    def know(self, *rows: tuple[int, int, float, int], born: Birth = PLANT) -> None:
        """(status, sequence, value, ns after T0) of each point."""
        table = np.zeros(len(born.points) + 1, dtype=POINT)
        table["status"] = status.BAD_WAITING_FOR_INITIAL_DATA
        table["value"] = math.nan
        table["utc_ns"] = T0_NS
        for index, (code, seq, value, ns) in enumerate(rows, start=1):
            table[index]["status"], table[index]["seq"] = code, seq
            table[index]["value"], table[index]["utc_ns"] = value, T0_NS + ns
        self.latest.born(born, table)

    def connect(self) -> None:
        opening = self.form.opening()
        assert opening.will is not None
        self.will = opening.will
        self.host.publications(self.form.begun())

    def born(self, table: Birth = PLANT, *, current: bool = True) -> None:
        self.host.publications(
            self.form.born(table.hash, wire.encode_birth(table), current=current)
        )

    def start(self) -> None:
        self.connect()
        self.born()

    def frame(self, data: Batch, *, live: bool = True) -> int:
        """Returns how many messages it made."""
        payload = wire.encode_frame(data, base=1)
        frame = StoredFrame(1, data.epoch, data.first, data.last, data.count, data.birth, payload)
        out = list(self.form.frame(frame, live=live))
        self.host.publications(out)
        return len(out)

    def say(self, topic: str, payload: bytes) -> bool:
        """Returns whether the session is to end."""
        reply = self.form.received(topic, payload)
        assert reply is not None
        self.host.publications(reply.publications)
        return reply.end

    def state(self, online: object, timestamp: object) -> bool:
        return self.say(STATE, json.dumps({"online": online, "timestamp": timestamp}).encode())


def known_edge(library: Peer, folder: Path) -> Edge:
    """An edge node whose link knows a value of each point."""
    made = Edge(library, folder)
    made.know((0, 5, 812.3, 0), (0, 6, 1.0, 2_000_000), (status.BAD_TIMEOUT, 7, 3.5, 1_000_000))
    return made


def rows(*entries: tuple[int, int, int, float, int], epoch: int = EPOCH) -> Batch:
    """(sequence, point, status, value, ns after T0) each."""
    made = np.array([(s, p, c, v, T0_NS + ns) for s, p, c, v, ns in entries], dtype=RECORD)
    return Batch(epoch, entries[0][0], entries[-1][0], "plant", made)
