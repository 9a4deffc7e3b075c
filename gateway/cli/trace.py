"""``gatepost trace``: a device's frames as they go, and a recording of them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import EXIT_BAD, CommandFailed, console, typed
from gateway.cli.site import StateOption, target_of


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
