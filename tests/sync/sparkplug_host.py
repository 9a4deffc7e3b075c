"""A Sparkplug host for the tests: it decodes with Eclipse Tahu's library and checks every rule.

Names in square brackets are those of the assertions in Sparkplug 3.0.0, without ``tck-id-``.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sync.forms.forms import Publication

NODE = Path(__file__).parents[1] / "node" / "sparkplug_peer.js"
PROPERTY_TYPES = {"Quality": 3, "StatusCode": 4}


class Peer:
    """The library in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    def decode(self, payload: bytes, *, birth: bool = False) -> dict[str, Any]:
        return self.ask({"decode": base64.b64encode(payload).decode(), "birth": birth})

    def encode(self, payload: Mapping[str, Any]) -> bytes:
        return base64.b64decode(self.ask({"encode": payload})["payload"])

    def rebirth(self, value: bool = True) -> bytes:
        """The payload of a rebirth request."""
        metric = {"name": "Node Control/Rebirth", "type": "Boolean", "value": value}
        return self.encode({"timestamp": 1_763_700_000_000, "metrics": [metric]})


@contextmanager
def peer() -> Iterator[Peer]:
    process = subprocess.Popen(
        ["node", str(NODE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@dataclass(frozen=True)
class Change:
    """A value that the host has got."""

    name: str
    value: Any
    timestamp_ms: int
    historical: bool
    quality: int
    code: int = 0


@dataclass
class Host:
    """One edge node as a host sees it; `take` fails where a message breaks a rule."""

    peer: Peer
    group: str
    node: str
    online: bool = False
    number: int | None = None  # bdSeq of the birth
    seq: int = 0
    births: int = 0
    names: dict[str, str] = field(default_factory=dict)  # alias -> name
    birth: dict[str, Change] = field(default_factory=dict)
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    current: dict[str, Change] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    told: list[bool] = field(default_factory=list)  # of each change: its status came with it
    deaths: list[int] = field(default_factory=list)

    def publications(self, out: Any) -> None:
        for publication in out:
            self.publication(publication)

    def publication(self, p: Publication) -> None:
        self.take(p.topic, p.payload, p.qos, p.retain)

    def take(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        assert not retain, topic  # [payloads-ndata-retain], [payloads-nbirth-retain]
        space, group, verb, node = topic.split("/")  # [topic-structure]
        assert (space, group, node) == ("spBv1.0", self.group, self.node)
        decoded = self.peer.decode(payload, birth=verb == "NBIRTH")
        fields, metrics = decoded["fields"], decoded["metrics"]
        if verb == "NDEATH":
            self._death(fields)
            return
        assert qos == 0  # [payloads-ndata-qos], [payloads-nbirth-qos]
        assert int(fields["timestamp"]) > 0  # [payloads-ndata-timestamp]
        assert verb in ("NBIRTH", "NDATA")
        self._in_order(fields["metrics"])
        if verb == "NBIRTH":
            self._birth(fields, metrics)
        else:
            self._data(fields, metrics)

    def _death(self, fields: Mapping[str, Any]) -> None:
        assert "seq" not in fields  # [payloads-ndeath-seq]
        (metric,) = fields["metrics"]  # [topics-ndeath-payload]
        assert metric["name"] == "bdSeq" and metric["datatype"] == 4
        number = int(metric["longValue"])
        self.deaths.append(number)
        if number == self.number:  # [payloads-ndeath-bdseq]
            self.online = False

    def _in_order(self, metrics: list[dict[str, Any]]) -> None:
        times = [int(m["timestamp"]) for m in metrics if not m.get("isHistorical")]
        assert times == sorted(times)  # [operational-behavior-data-publish-nbirth-order]

    def _birth(self, fields: Mapping[str, Any], metrics: list[dict[str, Any]]) -> None:
        assert int(fields.get("seq", -1)) == 0  # [topics-nbirth-seq-num]
        by_name = {m["name"]: m for m in fields["metrics"]}
        assert len(by_name) == len(fields["metrics"])
        number = by_name["bdSeq"]  # [payloads-nbirth-bdseq]
        assert number["datatype"] == 4
        self.number = int(number["longValue"])
        rebirth = by_name["Node Control/Rebirth"]  # [topics-nbirth-rebirth-metric]
        assert rebirth["datatype"] == 11 and rebirth["booleanValue"] is False
        assert "alias" not in rebirth  # [operational-behavior-data-commands-rebirth-name-aliases]
        aliases = [m["alias"] for m in fields["metrics"] if "alias" in m]
        assert len(set(aliases)) == len(aliases)  # [payloads-alias-uniqueness]
        for metric in fields["metrics"]:
            assert metric["datatype"] in (4, 10, 11, 12)  # [payloads-metric-datatype-req]
            # [operational-behavior-data-publish-nbirth-values]
            assert bool(metric.get("isNull")) != ("value" in metric), metric
            self._check_properties(metric)
        self.names = {m["alias"]: m["name"] for m in fields["metrics"] if "alias" in m}
        self.births += 1
        self.online, self.seq = True, 0
        self.birth = {m["name"]: self._change(m, m["name"]) for m in metrics}
        self.current = dict(self.birth)
        for metric in metrics:
            found = metric.get("properties", {})
            self.properties[metric["name"]] = {k: v["value"] for k, v in found.items()}

    def _data(self, fields: Mapping[str, Any], metrics: list[dict[str, Any]]) -> None:
        assert self.online  # [payloads-ndata-order]
        self.seq = (self.seq + 1) % 256
        assert int(fields["seq"]) == self.seq  # [payloads-ndata-seq-inc]
        seen = set()
        for shown, metric in zip(metrics, fields["metrics"], strict=True):
            assert "name" not in metric  # [payloads-alias-data-cmd-requirement]
            assert "datatype" not in metric  # [payloads-metric-datatype-not-req]
            assert metric["alias"] in self.names  # [topics-nbirth-metric-reqs]
            assert bool(metric.get("isNull")) != ("value" in metric), metric
            self._check_properties(metric)
            key = (metric["alias"], metric["timestamp"])
            assert key not in seen  # values of a metric have different times
            seen.add(key)
            change = self._change(shown, self.names[metric["alias"]])
            self.changes.append(change)
            self.told.append("StatusCode" in shown.get("properties", {}))
            if not change.historical:
                self.current[change.name] = change

    def _check_properties(self, metric: Mapping[str, Any]) -> None:
        found = metric.get("properties", {})
        keys, values = found.get("keys", []), found.get("values", [])
        assert len(keys) == len(values)  # [payloads-propertyset-keys-array-size]
        for key, value in zip(keys, values, strict=True):
            wanted = PROPERTY_TYPES.get(key)
            assert wanted in (None, value["type"]), key  # [payloads-propertyset-quality-value-type]
            if key == "Quality":  # [payloads-propertyset-quality-value-value]
                assert value["intValue"] in (0, 192, 500)

    def _change(self, metric: Mapping[str, Any], name: str) -> Change:
        found = metric.get("properties", {})
        quality = found.get("Quality", {}).get("value", 192)
        code = int(found.get("StatusCode", {}).get("value", 0))
        historical = bool(metric.get("isHistorical"))
        value = metric["value"]
        if metric["type"] == "Int64" and value is not None:  # as digits, in two's complement
            value = (int(value) + (1 << 63)) % (1 << 64) - (1 << 63)
        return Change(name, value, int(metric["timestamp"]), historical, quality, code)
