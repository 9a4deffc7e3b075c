"""The far side of `bench.peers`: a subscriber of its own that counts what arrives at the broker.

    python -m bench._peers_watch PORT gatepost|thingsboard|nodered

Obeys lines on standard input and answers each with one line of JSON: `seen` (values so far,
estimated while nothing is decoded), `begin`, `end` (what arrived in between), `values` (of
register 0, since `begin`). It keeps payloads as they come and decodes them only at the end, so that
it takes little of the machine meanwhile.

It also plays the part of each gateway's far side, without which two of them send nothing: it
acknowledges Gatepost's frames as the ingest would, and answers the ThingsBoard gateway's
question for the limits of its session with "none".
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import numpy as np
import paho.mqtt.client as paho
from numpy.typing import NDArray

from bench._modbus_fast import age_ms, is_mark
from sync import wire

CAPTURE_BYTES_MAX: Final = 1_000_000_000
ACK_INTERVAL_S: Final = 0.05
TAIL_S: Final = 1.5
Numbers = NDArray[np.int64]


@dataclass(slots=True)
class Arrived:
    """One message."""

    at_ns: int
    topic: str
    payload: bytes


Decoded = tuple[Numbers, Numbers]  # values and the addresses of their registers


class Gatepost:
    """Our frames."""

    topics = ("gatepost/+/birth", "gatepost/+/frames", "gatepost/+/backlog")

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        self._address = np.zeros(0, dtype=np.int64)  # by the index of the point; -1 = none
        self._frames: set[tuple[int, int]] = set()  # those of the window
        self._contiguous: dict[int, int] = {}
        self._ahead: dict[int, dict[int, int]] = {}
        self._due: set[str] = set()  # sites to acknowledge
        threading.Thread(target=self._acknowledge, daemon=True).start()

    def arrived(self, message: Arrived) -> None:
        """Take a birth, or note how far the frames have no hole."""
        if message.topic.endswith("birth"):
            self._birth(wire.decode_presence(message.payload))
            return
        # The columns are left packed until the window's end.
        outer: dict[str, Any] = msgpack.unpackb(message.payload)
        body: dict[str, Any] = msgpack.unpackb(outer["body"])
        epoch, first, last = body["epoch"], body["first"], body["last"]
        ahead = self._ahead.setdefault(epoch, {})
        ahead[first] = max(last, ahead.get(first, 0))
        end = max(self._contiguous.get(epoch, 0), outer["base"] - 1)
        while end + 1 in ahead:
            end = ahead.pop(end + 1)
        self._contiguous[epoch] = end
        self._due.add(message.topic.split("/")[1])

    def _acknowledge(self) -> None:
        """Say what is here, as often as the ingest does."""
        while True:
            time.sleep(ACK_INTERVAL_S)
            while self._due:
                site = self._due.pop()
                ack = wire.encode_ack(wire.Ack(dict(self._contiguous)))
                self._client.publish(f"gatepost/{site}/ack", ack, qos=1)

    def _birth(self, birth: wire.Birth | wire.Death) -> None:
        if isinstance(birth, wire.Death):
            return
        addresses = {int(p["index"]): p["channel"] for p in birth.points}
        self._address = np.full(max(addresses) + 1, -1, dtype=np.int64)
        for index, channel in addresses.items():
            if channel[:1] == "r" and channel[1:].isdigit():
                self._address[index] = int(channel[1:])

    def decode(self, message: Arrived) -> Decoded:
        """Values of registers; a frame that comes again counts once."""
        batch = wire.decode_frame(message.payload).batch
        key = batch.epoch, batch.first
        if key in self._frames:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._frames.add(key)
        address = self._address[batch.records["point"]]
        good = (address >= 0) & (batch.records["status"] == 0)
        return batch.records["value"][good].astype(np.int64), address[good]


class ThingsBoard:
    """`v1/gateway/telemetry`: device -> time stamps and values by key."""

    topics = ("v1/gateway/telemetry", "v1/devices/me/rpc/request/+")

    def __init__(self, client: paho.Client) -> None:
        self._client = client

    def arrived(self, message: Arrived) -> None:
        """Answer the gateway's question for limits; until then it sends nothing at all."""
        if "/rpc/request/" in message.topic:
            none: dict[str, Any] = {"rateLimits": {}, "gatewayRateLimits": {}}
            limits = {**none, "maxPayloadSize": 1_000_000, "maxInflightMessages": 1000}
            topic = message.topic.replace("request", "response")
            self._client.publish(topic, json.dumps(limits), qos=1)

    def decode(self, message: Arrived) -> Decoded:
        """Values of keys `r<address>`."""
        values: list[int] = []
        addresses: list[int] = []
        if message.topic.endswith("telemetry"):
            for entries in json.loads(message.payload).values():
                for entry in entries:
                    for key, value in entry.get("values", entry).items():
                        if key[:1] == "r":
                            values.append(value)
                            addresses.append(int(key[1:]))
        return np.array(values, dtype=np.int64), np.array(addresses, dtype=np.int64)


class NodeRed:
    """`bench/<device>/<first address>`: the registers of a block as a JSON list."""

    topics = ("bench/+/+",)

    def __init__(self, client: paho.Client) -> None:
        self._client = client

    def arrived(self, message: Arrived) -> None:
        """Nothing is asked."""

    def decode(self, message: Arrived) -> Decoded:
        """A block."""
        values = np.array(json.loads(message.payload), dtype=np.int64)
        return values, int(message.topic.rpartition("/")[2]) + np.arange(len(values))


FAR_SIDES: Final[dict[str, Callable[[paho.Client], Gatepost | ThingsBoard | NodeRed]]] = {
    "gatepost": Gatepost,
    "thingsboard": ThingsBoard,
    "nodered": NodeRed,
}


class Watch:
    """Keeps what arrives between `begin` and `end`."""

    def __init__(self, port: int, kind: str) -> None:
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="watch")
        self._far = FAR_SIDES[kind](self._client)
        self._kept: list[Arrived] = []
        self._bytes = 0
        self._keeping = False
        self._began_ns = 0
        self._messages = 0
        self._client.on_connect = self._connected
        self._client.on_message = self._arrived
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _connected(self, client: paho.Client, *_: object) -> None:
        client.subscribe([(topic, 1) for topic in self._far.topics])

    def _arrived(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        arrived = Arrived(time.monotonic_ns(), message.topic, bytes(message.payload))
        self._far.arrived(arrived)
        if message.topic.endswith("birth") or "/rpc/" in message.topic:
            return
        self._messages += 1
        if self._keeping and self._bytes < CAPTURE_BYTES_MAX:
            self._bytes += len(arrived.payload)
            self._kept.append(arrived)

    def obey(self, word: str) -> dict[str, Any]:
        """One command."""
        if word == "begin":
            self._kept, self._bytes = [], 0
            self._began_ns = time.monotonic_ns()
            self._keeping = True
        elif word == "end":
            ended_ns = time.monotonic_ns()
            time.sleep(TAIL_S)
            self._keeping = False
            return self._result(ended_ns)
        elif word == "values":
            self._keeping = False
            return {"values": self._first_register()}
        return {"messages": self._messages}

    def _first_register(self) -> list[int]:
        """All values of register 0 that were kept, in their order."""
        found: list[int] = []
        for message in self._kept:
            values, addresses = self._far.decode(message)
            found += values[addresses == 0].tolist()
        return found

    def _result(self, ended_ns: int) -> dict[str, Any]:
        """Values that the devices gave within the window; where many are later than the tail is
        long, values that arrived within it, which is the same in a steady state."""
        ages = []
        given = arrived = everything = 0.0
        for message in self._kept:
            values, addresses = self._far.decode(message)
            marked = is_mark(addresses)
            age = age_ms(values[marked], addresses[marked], message.at_ns // 1_000_000)
            everything += len(values)
            if len(age):
                at_ns = message.at_ns - 1_000_000 * age
                inside = (at_ns >= self._began_ns) & (at_ns < ended_ns)
                given += len(values) * float(inside.mean())
            if message.at_ns < ended_ns:
                arrived += len(values)
                ages.append(age)
        age = np.concatenate(ages) if ages else np.zeros(0)
        p50, p99, worst = np.percentile(age, [50, 99, 100]) if len(age) else (0.0, 0.0, 0.0)
        return {
            "seconds": (ended_ns - self._began_ns) / 1e9,
            "messages": len(self._kept),
            "values": given if p99 < 1e3 * TAIL_S else arrived,
            "bytes_per_value": self._bytes / max(1.0, everything),
            "latency_p50_ms": float(p50),
            "latency_p99_ms": float(p99),
            "latency_max_ms": float(worst),
        }


def main() -> int:
    """Watch until standard input ends."""
    watch = Watch(int(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        print(json.dumps(watch.obey(line.strip())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
