"""A server process under test: ours, or the library's own; for `bench.opcua`.

    python -m bench._opcua_server ours|plain POINTS

prints its address and how long it took to start as JSON, then answers each line on standard input:

    change MS   all values change once in so many ms, in portions every 50 ms; 0 = no more
    cpu         processor seconds of this process so far
    unmonitored N   ns for each change of the points behind the first N, which nobody monitors
                    (ours only)
    history     keep a day of the point D0.r0 (ours only)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import RECORD, Batch

CLIENT_URI: Final = "urn:gatepost:bench"
PORTION_S: Final = 0.05  # as gateway/mirror.py hands changes on
DAY_S: Final = 86_400
DAY_END_NS: Final = 1_790_000_000_000_000_000
UNMONITORED_ROUNDS: Final = 200


class Shown(Protocol):
    """A server that shows values."""

    url: str

    async def update(self, records: NDArray[np.void]) -> None:
        """Show changes."""


class _Desk:
    """No field process stands behind the server."""

    ready = False

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        """Nothing is commanded here."""

    async def journal(self, body: Mapping[str, Any]) -> None:
        """Nothing is journaled here."""

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """There is nobody to ask."""
        from gateway.opcua.desk import NotPassedOn

        raise NotPassedOn("no field process in this benchmark")


def _tags(count: int) -> list[str]:
    return [f"D{n // 100}.r{n % 100}" for n in range(count)]


def trust_client(folder: Path) -> None:
    """Make a client's certificate and key, client.der and client.pem, that our server trusts."""
    from asyncua.crypto import cert_gen
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    key = cert_gen.generate_private_key()
    names = [x509.UniformResourceIdentifier(CLIENT_URI)]
    usage = [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    made = cert_gen.generate_self_signed_app_certificate(key, "bench", {}, names, usage)
    trusted = folder / "opcua" / "trusted" / "certs"
    trusted.mkdir(parents=True)
    for path in (trusted / "client.der", folder / "client.der"):
        path.write_bytes(made.public_bytes(Encoding.DER))
    (folder / "client.pem").write_bytes(cert_gen.dump_private_key_as_pem(key))


async def ours(count: int, folder: Path) -> Any:
    """Our server with `count` analog points, and an archive."""
    from config.opcua import OpcUaEntry
    from config.points import PointDef
    from gateway.core.clock import SystemClock
    from gateway.opcua import OpcUaServer
    from gateway.opcua.model import SiteModel
    from sync.archive.archive import AsyncArchive

    points = [
        PointDef(n + 1, tag, *tag.split("."), units="V", value_min=0, value_max=1e6)
        for n, tag in enumerate(_tags(count))
    ]
    settings = OpcUaEntry(Endpoint="opc.tcp://127.0.0.1:0/bench", NoSecurity=True, Anonymous=True)
    trust_client(folder)
    archive = await AsyncArchive.open(folder / "history.sqlite", quota_bytes=500_000_000)
    server = OpcUaServer(settings, "Bench", folder, SystemClock(), _Desk())
    began = time.perf_counter()
    await server.start(SiteModel("Bench", "hash"), points, archive)
    return server, time.perf_counter() - began, archive


class Plain:
    """The library's own server with the same variables."""

    def __init__(self) -> None:
        self.url = ""
        self._nodes: list[Any] = []

    async def start(self, count: int) -> None:
        """Build and listen."""
        from asyncua import Server, ua

        self._server = server = Server()
        await server.init()
        server.set_endpoint("opc.tcp://127.0.0.1:0/bench")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        await server.register_namespace("urn:bench")
        equipment: dict[str, Any] = {}
        for tag in _tags(count):
            device, _ = tag.split(".")
            if device not in equipment:
                equipment[device] = await server.nodes.objects.add_object(
                    ua.NodeId(device, 2), f"2:{device}"
                )
            node = await equipment[device].add_variable(ua.NodeId(tag, 2), f"2:{tag}", 0.0)
            self._nodes.append(node.nodeid)
        await server.start()
        port = server.bserver._server.sockets[0].getsockname()[1]
        self.url = f"opc.tcp://127.0.0.1:{port}/bench"

    async def update(self, records: NDArray[np.void]) -> None:
        """Write each value; the fastest way that the library has."""
        from asyncua import ua

        write = self._server.write_attribute_value
        for _, index, status, value, utc_ns in records.tolist():
            shown = ua.DataValue(
                ua.Variant(value, ua.VariantType.Double),
                StatusCode=ua.StatusCode(ua.UInt32(status)),
                SourceTimestamp=ua.win_epoch_to_datetime(utc_ns // 100 + 116_444_736_000_000_000),
            )
            await write(self._nodes[index - 1], shown)
        await asyncio.sleep(0)


async def plain(count: int) -> Any:
    """The library's server, and how long it took to start."""
    server = Plain()
    began = time.perf_counter()
    await server.start(count)
    return server, time.perf_counter() - began, None


def rows(count: int) -> NDArray[np.void]:
    """A record for each point."""
    made = np.zeros(count, dtype=RECORD)
    made["point"] = np.arange(1, count + 1)
    return made


async def change(server: Shown, count: int, period_s: float) -> None:
    """Change all values once a period, until cancelled; what comes late is not made up."""
    made, portions = rows(count), max(1, round(period_s / PORTION_S))
    parts = np.array_split(made, portions)
    due, turn = time.monotonic(), 0
    while True:
        for part in parts:
            turn += 1
            part["value"] = turn
            part["utc_ns"] = time.time_ns()
            await server.update(part)
            due = max(due + period_s / portions, time.monotonic() - period_s)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def unmonitored_ns(server: Shown, count: int, first: int) -> float:
    """What a change of a point costs that nobody monitors: of those from `first` on."""
    made = rows(count)[first:]
    began = time.thread_time_ns()
    for turn in range(UNMONITORED_ROUNDS):
        made["value"] = turn
        await server.update(made)
    return (time.thread_time_ns() - began) / UNMONITORED_ROUNDS / len(made)


async def keep_a_day(archive: Any, count: int) -> int:
    """A day of one point, a value a second."""
    points = [{"index": n + 1, "tag": tag} for n, tag in enumerate(_tags(count))]
    await archive.learn("birth", lambda: points)
    made = np.zeros(DAY_S, dtype=RECORD)
    made["seq"] = np.arange(1, DAY_S + 1)
    made["point"] = 1
    made["value"] = np.sin(np.arange(DAY_S))
    made["utc_ns"] = DAY_END_NS - np.arange(DAY_S, 0, -1) * 1_000_000_000
    step = 1_000
    for first in range(0, DAY_S, step):
        part = made[first : first + step]
        batch = Batch(1, first + 1, first + len(part), "birth", part)
        await archive.add([batch])
    await archive.flush()
    return DAY_S


async def main(kind: str, count: int) -> None:
    """Serve and answer until the input ends."""
    with tempfile.TemporaryDirectory(prefix="gatepost-opcua-") as name:
        made = ours(count, Path(name)) if kind == "ours" else plain(count)
        server, start_s, archive = await made
        print(json.dumps({"url": server.url, "start_s": start_s, "folder": name}), flush=True)
        changing: asyncio.Task[None] | None = None
        while line := (await asyncio.to_thread(sys.stdin.readline)).split():
            answer: float = 0.0
            if line[0] == "change":
                if changing is not None:
                    changing.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await changing
                period_s = float(line[1]) / 1000
                if period_s:
                    changing = asyncio.create_task(change(server, count, period_s))
            elif line[0] == "unmonitored":
                answer = await unmonitored_ns(server, count, int(line[1]))
            elif line[0] == "history":
                answer = await keep_a_day(archive, count)
            else:
                used = resource.getrusage(resource.RUSAGE_SELF)
                answer = used.ru_utime + used.ru_stime
            print(answer, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
