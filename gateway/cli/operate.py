"""``gatepost status``, ``read`` and ``write``: talking to the gateway that runs on this machine."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from config import status as codes
from gateway.cli.output import EXIT_BAD, CommandFailed, console, number, print_json, table
from gateway.cli.site import JsonOption, SiteArgument, StateOption, state_of
from gateway.cli.view import status_view
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.core.records import Command
from gateway.local import LocalClient, LocalError

ANSWER_S: Final = 15.0  # a command's last receipt comes within 10 s, see gateway/local_server.py
LEASE_S_MAX: Final = 366 * 86_400.0
BAD_STEPS: Final = ("refused", "failed")


def status(site: SiteArgument, state: StateOption = None, json: JsonOption = False) -> None:
    """Show devices, scan, active rules, link and backlog of the running gateway."""
    answer = asyncio.run(_request(state_of(site, state), {"type": "status"}))["status"]
    if json:
        print_json(answer)
    else:
        console().print(status_view(answer))


def read(
    site: SiteArgument,
    points: Annotated[
        list[str] | None, typer.Argument(metavar="POINT", help="Tags, Equipment.Channel.")
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Read points of the running gateway; all of them where none is named."""
    paths = state_of(site, state)
    request = {"type": "read", "tags": points or []}
    rows = asyncio.run(_request(paths, request))["points"]
    if json:
        print_json([{**row, "status_name": codes.name_of(row["status"])} for row in rows])
        return
    shown = table("POINT", "VALUE", "UNITS", "STATUS", "AGE ms", right=("VALUE", "AGE ms"))
    for row in rows:
        shown.add_row(
            row["tag"],
            number(row["value"], row["states"]),
            row["units"],
            codes.name_of(row["status"]),
            f"{row['age_ms']:.0f}" if row["utc_ns"] else "-",
        )
    console().print(shown)


def write(
    site: SiteArgument,
    point: Annotated[str, typer.Argument(metavar="POINT", help="Tag, Equipment.Channel.")],
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="A number in the point's units, or a state's name."),
    ] = None,
    lease: Annotated[
        float | None,
        typer.Option("--lease", metavar="SECONDS", help="End the setpoint after that time."),
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="Give the point back instead of setting it.")
    ] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Command a point as local operator and print every receipt.

    Exit status 0 where the command was accepted and, for an output, verified by read-back;
    1 where it was refused or failed.
    """
    if (value is None) != release:
        raise CommandFailed("give either a VALUE or --release")
    if lease is not None and not 0 < lease <= LEASE_S_MAX:
        raise CommandFailed(f"--lease {lease:g}: more than 0 and up to {LEASE_S_MAX:g} seconds")
    steps = asyncio.run(_write(state_of(site, state), point, value, lease or 0.0, release, json))
    if json:
        print_json(steps)
    if not steps or any(step["step"] in BAD_STEPS for step in steps):
        raise typer.Exit(EXIT_BAD)


async def _request(paths: StatePaths, message: Mapping[str, Any]) -> dict[str, Any]:
    client = LocalClient(paths.field_socket)
    try:
        async with asyncio.timeout(ANSWER_S):
            await client.connect()
            return await client.request(message)
    except LocalError as error:
        raise CommandFailed(str(error)) from error
    except TimeoutError as error:
        raise CommandFailed(f"the field process did not answer within {ANSWER_S:g} s") from error
    finally:
        await client.close()


async def _write(
    paths: StatePaths, tag: str, value: str | None, lease_s: float, release: bool, quiet: bool
) -> list[dict[str, Any]]:
    row = (await _request(paths, {"type": "read", "tags": [tag]}))["points"][0]
    command = Command(
        id=SystemClock().new_id(),
        tag=tag,
        value=0.0 if value is None else parse_value(value, row["states"], tag),
        lease_ns=int(lease_s * 1e9),
        release=release,
        source=f"command line, {_user()}",
    )
    steps: list[dict[str, Any]] = []
    client = LocalClient(paths.field_socket)
    out = console()
    try:
        async with asyncio.timeout(ANSWER_S):
            await client.connect()
            async for receipt in client.command(asdict(command)):
                steps.append(receipt)
                if not quiet:
                    out.print(receipt_line(receipt, row["units"]), markup=False)
    except LocalError as error:
        raise CommandFailed(str(error)) from error
    except TimeoutError as error:
        raise CommandFailed(f"no last receipt within {ANSWER_S:g} s") from error
    finally:
        await client.close()
    return steps


def parse_value(text: str, states: Sequence[str], tag: str) -> float:
    """A number, or the name of one of the point's states. Raises CommandFailed."""
    names = [name.lower() for name in states]
    if text.lower() in names and text:
        return float(names.index(text.lower()))
    try:
        return float(text)
    except ValueError:
        known = f" and no state of {tag} ({', '.join(filter(None, states))})" if states else ""
        raise CommandFailed(f"{text!r} is no number{known}") from None


def receipt_line(receipt: Mapping[str, Any], units: str) -> str:
    """One receipt for people: step, point, value, reaction, reason."""
    value = number(float(receipt["value"]))
    text = f"{receipt['step']}: {receipt['tag']} = {value} {units}".strip()
    if "reaction_ms" in receipt:
        text += f" after {receipt['reaction_ms']:.0f} ms"
    return f"{text}: {receipt['reason']}" if receipt.get("reason") else text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        return "unknown user"
