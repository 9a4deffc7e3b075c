"""``gatepost simulate``: the devices of a site without the devices, or a recording as a device."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from config.findings import nearest
from gateway.cli.output import CommandFailed, console, counted, printable

if TYPE_CHECKING:
    from config.site import Instrument
    from drivers.sim.recording import RecordingServer
    from drivers.sim.site import Place, SimulatedSite

READ_BYTES: Final = 4096
LINE_BYTES_MAX: Final = 4096
LINES_MAX: Final = 1000  # typed or piped lines that wait
LOCALHOST: Final = "127.0.0.1"


def simulate(
    source: Annotated[
        Path, typer.Argument(metavar="SITE|FILE", help="Site folder, or what trace recorded.")
    ],
    devices: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DEVICE]...", help="Devices of the site; default: all."),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TAG=VALUE", help="Site: first value; may be repeated."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", help="Recording: TCP port; 0: any free one.")
    ] = 0,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="HOST",
            help="Address to listen on; default: 127.0.0.1, of a site what it declares.",
        ),
    ] = None,
    timing: Annotated[
        bool, typer.Option("--timing", help="Recording: answer as late as the device did.")
    ] = False,
) -> None:
    """Serve the devices of a site, or play a recording as a device, until Ctrl-C.

    With a site, lines on standard input change the devices: TAG VALUE, TAG bad, TAG good,
    DEVICE off, DEVICE on, list. What clients write is printed.
    """
    if source.is_dir():
        if port or timing:
            raise CommandFailed("--port and --timing are for recordings; a site has its own ports")
        _simulate_site(source, devices or [], values or [], host)
        return
    if devices or values:
        raise CommandFailed(
            f"{source}: no such site folder; a recording has no DEVICE and no --set"
        )
    _play(source, port, host or LOCALHOST, timing)


def _simulate_site(
    folder: Path, names: Sequence[str], values: Sequence[str], host: str | None
) -> None:
    from config.load import require_site
    from drivers.sim.site import SimulatedSite, SimulationError

    chosen = _chosen(require_site(folder).instruments.values(), names, host)
    made = SimulatedSite(_say)
    try:
        for instrument, place in chosen:
            made.add(folder, instrument, place)
        for each in values:
            tag, equals, value = each.partition("=")
            if not equals:
                raise CommandFailed(f"--set {each}: this has to be TAG=VALUE")
            made.set(tag.strip(), value.strip())
        asyncio.run(_serve_site(made, chosen))
    except SimulationError as error:
        raise CommandFailed(str(error)) from error


def _chosen(
    instruments: Iterable[Instrument], names: Sequence[str], host: str | None
) -> list[tuple[Instrument, Place]]:
    """What is simulated, and where; what can't be is named. Raises CommandFailed."""
    known = {instrument.name: instrument for instrument in instruments}
    for name in names:
        if name not in known:
            raise CommandFailed(f"the site has no active device {name}. {nearest(name, known)}")
    chosen, left_out, elsewhere = [], [], []
    for name in dict.fromkeys(names or known):
        place = _place(known[name])
        if place is None:
            left_out.append(f"{name} ({known[name].tags.Communication})")
        elif host is None and not _is_loopback(place[0]):
            elsewhere.append(f"{name} at {place[0]}:{place[1]}")
        else:
            chosen.append((known[name], (host or place[0], place[1])))
    if elsewhere:
        raise CommandFailed(
            f"not on this machine: {', '.join(elsewhere)}. In a copy of the site let them be at "
            f"{LOCALHOST}; or --host {LOCALHOST} serves their ports there"
        )
    if left_out:
        text = f"left out, only Modbus TCP and SCPI sockets are simulated: {', '.join(left_out)}"
        console(stderr=True).print(text)
    if not chosen:
        raise CommandFailed("nothing is left to simulate")
    return chosen


def _place(instrument: Instrument) -> Place | None:
    """Where the gateway looks for a device; None where it can't be simulated."""
    from drivers.modbus import tcp
    from drivers.scpi import driver, text

    tags = instrument.tags
    if tags.Communication in driver.PROTOCOL.names:
        return text.host_and_port(tags)
    if tags.Communication not in tcp.PROTOCOL.names:
        return None
    if tags.Connection is None or not tags.Connection.IP:
        return None
    return tags.Connection.IP, tags.PortNum or tcp.PORT


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _say(text: str) -> None:
    print(printable(text, ""), flush=True)


async def _serve_site(made: SimulatedSite, chosen: Sequence[tuple[Instrument, Place]]) -> None:
    from drivers.sim.site import SENTENCES, SimulationError

    with _asked_to_end() as asked:
        lines: asyncio.Queue[str] = asyncio.Queue(maxsize=LINES_MAX)
        try:
            await made.start()
            for instrument, (host, port) in chosen:
                count = counted(len(instrument.channels), "channel")
                name = f"{instrument.name} ({instrument.tags.Communication})"
                _say(f"{name} on {host}:{port}, {count}")
            _say(f"ready; Ctrl-C ends it. Lines: {SENTENCES}")
            _read_lines(lines)
            ended = asyncio.create_task(asked.wait())
            while not ended.done():
                line = asyncio.create_task(lines.get())
                await asyncio.wait((ended, line), return_when=asyncio.FIRST_COMPLETED)
                if not line.done():
                    line.cancel()
                    continue
                try:
                    await made.obey(line.result())
                except SimulationError as error:
                    console(stderr=True).print(str(error))
        finally:
            await made.stop()


def _read_lines(lines: asyncio.Queue[str]) -> None:
    """Let a thread put the lines of standard input into a queue; its end changes nothing.

    A thread, because a file and /dev/null can't be waited for in the loop; os.read, because a
    reader that holds the lock of sys.stdin could not be left behind at the end.
    """
    if sys.stdin is None:
        return
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # in the background of a shell: no input

    def read() -> None:
        rest = b""
        # CancelledError and RuntimeError: the loop ends or is closed.
        with contextlib.suppress(OSError, CancelledError, RuntimeError):
            while data := os.read(0, READ_BYTES):
                *whole, rest = (rest + data).split(b"\n")
                rest = rest[-LINE_BYTES_MAX:]
                for line in whole:
                    work = lines.put(line.decode("utf-8", "replace"))
                    asyncio.run_coroutine_threadsafe(work, loop).result()

    threading.Thread(target=read, daemon=True).start()


@contextlib.contextmanager
def _asked_to_end() -> Iterator[asyncio.Event]:
    """Set when Ctrl-C or SIGTERM comes."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, asked.set)
    yield asked


def _play(recording: Path, port: int, host: str, timing: bool) -> None:
    """Play a recording as a device."""
    from drivers.sim.recording import RecordingError, RecordingServer, load_recording

    if not 0 <= port <= 65535:
        raise CommandFailed(f"--port {port}: 0 to 65535")
    try:
        loaded = load_recording(recording)
        server = RecordingServer(loaded, host=host, port=port, timing=timing)
    except RecordingError as error:
        raise CommandFailed(str(error)) from error
    asyncio.run(_serve_recording(server, f"{loaded.device} ({loaded.protocol})"))


async def _serve_recording(server: RecordingServer, what: str) -> None:
    with _asked_to_end() as asked:
        try:
            port = await server.start()
        except OSError as error:
            text = error.strerror or str(error)
            raise CommandFailed(f"can't listen on {server.host}:{server.port}: {text}") from error
        print(printable(f"{what} on {server.host}:{port}", ""), flush=True)
        try:
            await asked.wait()
        finally:
            await server.stop()
    text = f"{server.requests} requests, {server.unknown} of them not in the recording"
    console(stderr=True).print(text)
