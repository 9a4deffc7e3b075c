"""``gatepost trace`` and ``simulate``: a device's frames, and a recording of them as a device."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import EXIT_BAD, CommandFailed, console, printable, typed
from gateway.cli.site import StateOption, target_of

if TYPE_CHECKING:
    from drivers.sim.recording import RecordingServer


def trace(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Name of the equipment.")],
    site: Annotated[
        Path, typer.Option("--site", metavar="SITE", help="Site folder; default: this folder.")
    ] = Path(),
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", metavar="SECONDS", help="End after that time; else Ctrl-C."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="Keep the frames in a new file."),
    ] = None,
    state: StateOption = None,
) -> None:
    """Poll one device by its scan classes and print every frame, decoded; no gateway may run.

    Exit status 1 where the device answered nothing.
    """
    from gateway.cli.direct import device_of, no_gateway
    from gateway.cli.tracing import follow

    if seconds is not None and not 0 < seconds <= 1e6:
        raise CommandFailed(f"--seconds {seconds:g}: more than 0 seconds")
    with no_gateway(target_of(site, state)) as loaded, contextlib.ExitStack() as files:
        instrument, protocol = device_of(loaded, device)
        file = None
        if record is not None:
            try:
                file = files.enter_context(record.open("x", encoding="ascii", buffering=1))
            except FileExistsError as error:
                raise CommandFailed(f"{record} exists; name another file") from error
        answered = asyncio.run(follow(loaded, instrument, protocol, file, seconds))
    if record is not None:
        from drivers.sim.recording import FORMS

        told = f"recorded in {record}"
        if instrument.tags.Communication in FORMS and answered:
            told += f"; `gatepost simulate {typed(record)}` plays it as a device"
        console(stderr=True).print(told)
    if not answered:
        raise typer.Exit(EXIT_BAD)


def simulate(
    recording: Annotated[Path, typer.Argument(metavar="FILE", help="What trace recorded.")],
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", help="TCP port; 0: any free one.")
    ] = 0,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    timing: Annotated[
        bool, typer.Option("--timing", help="Answer as late as the device did.")
    ] = False,
) -> None:
    """Play a recording as a device, until Ctrl-C."""
    from drivers.sim.recording import RecordingError, RecordingServer, load_recording

    if not 0 <= port <= 65535:
        raise CommandFailed(f"--port {port}: 0 to 65535")
    try:
        loaded = load_recording(recording)
        server = RecordingServer(loaded, host=host, port=port, timing=timing)
    except RecordingError as error:
        raise CommandFailed(str(error)) from error
    asyncio.run(_serve(server, f"{loaded.device} ({loaded.protocol})"))


async def _serve(server: RecordingServer, what: str) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, asked.set)
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
