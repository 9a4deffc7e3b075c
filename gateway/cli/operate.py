"""``gatepost status``, ``read`` and ``write``: talking to the gateway that runs on this machine,
or with ``--direct`` to the devices while none runs.
"""

from __future__ import annotations

import asyncio
import getpass
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from config import status as codes
from config.findings import nearest
from config.points import state_number, switch_number
from gateway.cli.output import EXIT_BAD, CommandFailed, console, number, print_json, table
from gateway.cli.session import session
from gateway.cli.site import JsonOption, SiteArgument, StateOption, Target, target_of
from gateway.cli.view import status_view
from gateway.core.clock import SystemClock
from gateway.core.records import Command

LEASE_S_MAX: Final = 366 * 86_400.0
BAD_STEPS: Final = ("refused", "failed")
STALLED_AGE_NS: Final = 10_000_000_000  # live frames are acknowledged long before
STALLED_S: Final = 2.0
NO_INGEST: Final = (
    f"the broker is connected, but nothing was acknowledged for {STALLED_S:g} s: does ingest run "
    "on this broker?"
)


def status(site: SiteArgument, state: StateOption = None, json: JsonOption = False) -> None:
    """Show devices, scan, active rules, link and backlog of the running gateway."""
    answer, hint = asyncio.run(_status(target_of(site, state), look_twice=not json))
    if json:
        print_json(answer)
    else:
        console().print(status_view(answer, hint))


def read(
    site: SiteArgument,
    points: Annotated[
        list[str] | None,
        typer.Argument(metavar="POINT", help="Tags, Equipment.Channel, or whole devices."),
    ] = None,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="Ask the devices themselves; no gateway may run."),
    ] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Read points of the running gateway, or of the devices; all of them where none is named."""
    target = target_of(site, state)
    if direct:
        _read_direct(target, points or [], json)
    else:
        show_rows(asyncio.run(_read(target, points or [])), json)


def _read_direct(target: Target, tags: Sequence[str], json: bool) -> None:
    from gateway.cli.direct import DirectReader, no_gateway, points_of

    with no_gateway(target) as site:
        reading = asyncio.run(DirectReader(site).read(points_of(site, tags)))
    show_rows(reading.rows, json)
    for what, reason in reading.faults.items():
        console(stderr=True).print(f"{what}: {reason}")
    if reading.faults:
        raise typer.Exit(EXIT_BAD)


def show_rows(rows: Sequence[Mapping[str, Any]], json: bool) -> None:
    """Print points as the field process answers them."""
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
        typer.Argument(metavar="VALUE", help="A number, a state's name; on or off."),
    ] = None,
    lease: Annotated[
        float | None,
        typer.Option("--lease", metavar="SECONDS", help="End the setpoint after that time."),
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="Give the point back instead of setting it.")
    ] = False,
    direct: Annotated[
        bool,
        typer.Option("--direct", help="Write to the device itself; no gateway may run."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --direct: don't ask before something moves.")
    ] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Command a point as local operator and print every receipt.

    Exit status 0 where the command was accepted and, for an output, verified by read-back;
    1 where it was refused or failed. With --direct the value goes straight to the device: no
    interlock, no trip and no safe value stands behind it.
    """
    if direct:
        if value is None or release or lease is not None:
            raise CommandFailed("--direct takes a VALUE, and neither --lease nor --release")
        _write_direct(target_of(site, state), point, value, yes, json)
        return
    if yes:
        raise CommandFailed("--yes goes with --direct; the gateway does not ask")
    if (value is None) != release:
        raise CommandFailed("give either a VALUE or --release")
    if lease is not None and not 0 < lease <= LEASE_S_MAX:
        raise CommandFailed(f"--lease {lease:g}: more than 0 and up to {LEASE_S_MAX:g} seconds")
    steps = asyncio.run(_write(target_of(site, state), point, value, lease or 0.0, release, json))
    if json:
        print_json(steps)
    if not steps or any(step["step"] in BAD_STEPS for step in steps):
        raise typer.Exit(EXIT_BAD)


def _write_direct(target: Target, tag: str, text: str, yes: bool, json: bool) -> None:
    from gateway.cli.direct import in_range, no_gateway, output_of, write_direct

    with no_gateway(target) as site:
        point = output_of(site, tag)
        value = parse_value(text, point.states, tag, discrete=point.kind == "discrete")
        in_range(point, value)
        shown = f"{tag} = {number(value, point.states)} {point.units}".rstrip()
        if not yes:
            _ask_first(shown)
        try:
            reading = asyncio.run(write_direct(site, point, value))
        except KeyboardInterrupt:
            text = f"interrupted; look at the device, {shown} may be written"
            raise CommandFailed(text, EXIT_BAD) from None
    if not json:
        console().print(f"written: {shown}")
    if reading.rows or json:
        show_rows(reading.rows, json)
    elif not reading.faults:
        console(stderr=True).print(f"{tag} has no read-back: look at the device")
    for what, reason in reading.faults.items():
        console(stderr=True).print(f"{what}: {reason}")
    if reading.faults:
        raise typer.Exit(EXIT_BAD)


def _ask_first(shown: str) -> None:
    """Raises CommandFailed unless a person agrees."""
    if not sys.stdin.isatty():
        raise CommandFailed("something may move: say --yes where nobody can be asked")
    text = f"{shown}: no interlock, trip or safe value stands behind this. Write it?"
    if not typer.confirm(text, err=True):
        raise CommandFailed("nothing was written", EXIT_BAD)


async def _status(target: Target, look_twice: bool) -> tuple[dict[str, Any], str]:
    """The status, and a hint where the link looks well and nothing is acknowledged."""
    async with session(target) as (client, first):
        if not look_twice or not waits(first, SystemClock().utc_ns()):
            return first, ""
        await asyncio.sleep(STALLED_S)
        second = (await client.request({"type": "status"}))["status"]
    before, after = (status["link"] or {} for status in (first, second))
    same = before.get("acknowledged") == after.get("acknowledged")
    return second, NO_INGEST if same and after.get("connected") else ""


def waits(status: Mapping[str, Any], utc_ns: int) -> bool:
    """True where a broker is there and the oldest stored frame is not acknowledged for long."""
    link = status["link"] or {}
    oldest_ns = link.get("backlog_oldest_utc_ns") or 0
    old = bool(oldest_ns) and utc_ns - oldest_ns > STALLED_AGE_NS
    idle = link.get("connected") and link.get("backlog") and not link.get("held_back")
    return bool(idle and old)


async def _read(target: Target, tags: Sequence[str]) -> list[dict[str, Any]]:
    async with session(target) as (client, _):
        devices = [tag for tag in tags if "." not in tag]
        asked = [] if devices else list(tags)
        rows: list[dict[str, Any]] = (await client.request({"type": "read", "tags": asked}))[
            "points"
        ]
        if not devices:
            return rows
        missing = [tag for tag in tags if not any(tag in (r["tag"], equipment_of(r)) for r in rows)]
        if missing:
            names = dict.fromkeys(name for r in rows for name in (r["tag"], equipment_of(r)))
            hint = nearest(missing[0], names)
            raise CommandFailed(f"no such point or device: {', '.join(missing)}. {hint}")
        return [row for row in rows if row["tag"] in tags or equipment_of(row) in devices]


def equipment_of(row: Mapping[str, Any]) -> str:
    """The device of a point."""
    return str(row["tag"]).partition(".")[0]


async def _write(
    target: Target, tag: str, value: str | None, lease_s: float, release: bool, quiet: bool
) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    out = console()
    async with session(target) as (client, status):
        row = (await client.request({"type": "read", "tags": [tag]}))["points"][0]
        discrete = row.get("kind") == "discrete"
        number = parse_value("0" if value is None else value, row["states"], tag, discrete=discrete)
        command = Command(
            id=SystemClock().new_id(),
            tag=tag,
            value=number,
            lease_ns=int(lease_s * 1e9),
            release=release,
            source=f"command line, {user_name()}",
        )
        async for receipt in client.command(asdict(command)):
            steps.append(receipt)
            if not quiet:
                value_shown = not release
                out.print(receipt_line(receipt, row["units"], row["states"], value_shown))
        if release and not quiet and steps and steps[-1]["step"] not in BAD_STEPS:
            out.print(fallback_line(target, status, tag))
    return steps


def fallback_line(target: Target, status: Mapping[str, Any], tag: str) -> str:
    """What follows a setpoint that the operator gave back; known where the site's files are."""
    first = f"{tag}: a remote setpoint or a schedule takes over where there is one, else "
    site = target.site
    point = next((point for point in site.points if point.tag == tag), None) if site else None
    if site is None or point is None or site.hash != status.get("config_hash"):
        return f"{first}its Fallback or SafeValue, as the running gateway has them"
    if not math.isfinite(point.fallback):
        return f"{first}it keeps what it has (no Fallback and no SafeValue)"
    return f"{first}it falls back to {number(point.fallback, point.states)} {point.units}".rstrip()


def parse_value(text: str, states: Sequence[str], tag: str, *, discrete: bool = False) -> float:
    """A number, or the name of one of the point's states; of a discrete point also on or off.

    Raises CommandFailed.
    """
    # Of a machine 1 is its first state, whatever that is: on is none of them. It has no state 0.
    switch = discrete and not (states and not states[0])
    state = switch_number(states, text) if switch else state_number(states, text)
    if state is not None:
        return float(state)
    try:
        return float(text)
    except ValueError:
        known = f" and no state of {tag} ({', '.join(filter(None, states))})" if states else ""
        known += ", on or off" if switch and not states else ""
        raise CommandFailed(f"{text!r} is no number{known}") from None


def receipt_line(
    receipt: Mapping[str, Any], units: str, states: Sequence[str] = (), value_shown: bool = True
) -> str:
    """One receipt for people: step, point, value, reaction, reason."""
    text = f"{receipt['step']}: {receipt['tag']}"
    if value_shown:
        text += f" = {number(float(receipt['value']), states)} {units}".rstrip()
    if "reaction_ms" in receipt:
        text += f" after {receipt['reaction_ms']:.0f} ms"
    return f"{text}: {receipt['reason']}" if receipt.get("reason") else text


def user_name() -> str:
    """Who runs this command, for the audit."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        return "unknown user"
