"""``gatepost bypass``, ``reset`` and ``states``: protection and control states of the gateway that
runs on this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from config.findings import nearest
from config.points import RULE_EQUIPMENT, rule_channel
from gateway.cli.operate import BAD_STEPS, receipt_line, user_name
from gateway.cli.output import EXIT_BAD, CommandFailed, console, print_json, table
from gateway.cli.session import session
from gateway.cli.site import JsonOption, SiteArgument, StateOption, Target, target_of
from gateway.cli.times import duration_option, duration_text
from gateway.cli.view import bypasses_view
from gateway.core.clock import SystemClock
from gateway.core.records import Command
from gateway.local import LocalClient

_CONTROLS: Final = RULE_EQUIPMENT["control"]
RESET: Final = "Gateway.Reset"


def bypass(
    site: SiteArgument,
    control: Annotated[
        str | None,
        typer.Argument(metavar="CONTROL", help="A trip or interlock, e.g. OverTemp."),
    ] = None,
    duration: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long: 30s, 10min, 1h, 1d.")
    ] = "",
    comment: Annotated[
        str, typer.Option("--comment", metavar="TEXT", help="Why, at least 3 characters.")
    ] = "",
    end: Annotated[bool, typer.Option("--end", help="End the bypass now.")] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Bypass the cause of a trip or interlock for a time, or list what is bypassed.

    While it is bypassed the cause counts as false: the plant is without this protection. The
    bypass ends by itself; begin, end and a cause that holds meanwhile are events.
    """
    target = target_of(site, state)
    if control is None:
        if end or duration or comment:
            raise CommandFailed("name the CONTROL")
        _show_bypasses(asyncio.run(_status(target)), json)
        return
    if end == bool(duration):
        raise CommandFailed("give either --for DURATION or --end")
    lease_ns = duration_option("--for", duration or None)
    keys = {
        "action": "end-bypass" if end else "bypass",
        "lease_ns": lease_ns,
        "comment": comment,
    }
    _finish(asyncio.run(_bypass(target, control, keys, json)), json)


def reset(site: SiteArgument, state: StateOption = None, json: JsonOption = False) -> None:
    """Reset latched trips, interlocks and alarms whose causes are gone.

    Prints what was released and what stays because its cause still holds; exit status 1 where
    something stays. A reset drives no output by itself.
    """
    _finish(asyncio.run(_reset(target_of(site, state), json)), json)


def states(
    site: SiteArgument,
    machine: Annotated[
        str | None, typer.Argument(metavar="MACHINE", help="A machine, e.g. Stack/Operation.")
    ] = None,
    wanted: Annotated[
        str | None, typer.Argument(metavar="STATE", help="Ask for this state.")
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Show control states, and what is missing for the others; with STATE ask for it.

    Exit status 0 where the state was entered, 1 where the request was refused or failed.
    """
    target = target_of(site, state)
    if wanted is None:
        _show_machines(asyncio.run(_machines(target, machine)), json)
    else:
        assert machine is not None
        _finish(asyncio.run(_ask(target, machine, wanted, json)), json)


# ---------------------------------------------------------------- conversations


async def _status(target: Target) -> dict[str, Any]:
    async with session(target) as (_, status):
        return status


async def _bypass(
    target: Target, control: str, keys: Mapping[str, Any], quiet: bool
) -> list[dict[str, Any]]:
    async with session(target) as (client, _):
        rows = (await client.request({"type": "read", "tags": []}))["points"]
        tags = [row["tag"] for row in rows if row["tag"].startswith(f"{_CONTROLS}.")]
        tag = f"{_CONTROLS}.{rule_channel(control.removeprefix(f'{_CONTROLS}.'))}"
        tag = next((known for known in tags if known.lower() == tag.lower()), tag)
        if tag not in tags:
            hint = nearest(tag, tags)
            raise CommandFailed(f"there is no control {control}. {hint}")
        return await run_command(client, command_for(tag, 0.0, **keys), quiet)


async def _reset(target: Target, quiet: bool) -> list[dict[str, Any]]:
    async with session(target) as (client, _):
        return await run_command(client, command_for(RESET, 1.0), quiet)


async def _machines(target: Target, name: str | None) -> list[dict[str, Any]]:
    """The machines, each with the transitions that lead away from its present state."""
    async with session(target) as (client, _):
        found = await _found_machines(client, name)
        for machine in found:
            about = await client.request({"type": "explain", "tag": machine["tag"]})
            machine["transitions"] = about["transitions"]
        return found


async def _found_machines(client: LocalClient, name: str | None) -> list[dict[str, Any]]:
    """Machines by name or tag; all where none is named. Raises CommandFailed."""
    found: list[dict[str, Any]] = (await client.request({"type": "states"}))["machines"]
    if name is None:
        return found
    names = [(m["name"], m["tag"], m["tag"].partition(".")[2]) for m in found]
    folded = name.lower()
    named = [m for m, known in zip(found, names, strict=True) if folded in map(str.lower, known)]
    if not named:
        hint = nearest(name, [m["name"] for m in found]) if found else "The site has none."
        raise CommandFailed(f"there is no machine {name}. {hint}")
    return named


async def _ask(target: Target, machine: str, state: str, quiet: bool) -> list[dict[str, Any]]:
    async with session(target) as (client, _):
        (found,) = await _found_machines(client, machine)
        names = [shown["state"] for shown in found["states"]]
        folded = [name.lower() for name in names]
        if state.lower() not in folded:
            raise CommandFailed(f"{found['name']} has no state {state}. {nearest(state, names)}")
        position = names.index(state) if state in names else folded.index(state.lower())
        command = command_for(found["tag"], 1.0 + position)
        return await run_command(client, command, quiet, ("", *names))


def command_for(tag: str, value: float, **keys: Any) -> Command:
    """A local operator's command of this user."""
    source = f"command line, {user_name()}"
    return Command(SystemClock().new_id(), tag, value, source=source, **keys)


async def run_command(
    client: LocalClient, command: Command, quiet: bool, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Send a command and print its receipts as they come; returns them."""
    steps = []
    async for receipt in client.command(asdict(command)):
        steps.append(receipt)
        if not quiet:
            console().print(receipt_line(receipt, "", names, value_shown=bool(names)))
    return steps


def _finish(steps: Sequence[Mapping[str, Any]], json: bool) -> None:
    if json:
        print_json(steps)
    if not steps or any(step["step"] in BAD_STEPS for step in steps):
        raise typer.Exit(EXIT_BAD)


# ---------------------------------------------------------------- what is shown


def _show_bypasses(status: Mapping[str, Any], json: bool) -> None:
    found = status["bypasses"]
    if json:
        print_json(found)
        return
    if not found:
        console().print("nothing is bypassed")
        return
    console().print(*bypasses_view(status)[1:])


def _show_machines(found: Sequence[Mapping[str, Any]], json: bool) -> None:
    if json:
        print_json(found)
        return
    out = console()
    if not found:
        out.print("the site has no control states")
    for machine in found:
        since = duration_text(round(machine["since_s"] * 1e9))
        out.print(f"{machine['name']} ({machine['tag']}): {machine['state']}, for {since}")
        shown = table("STATE", "FROM HERE", "NEEDED")
        for state in machine["states"]:
            for row in state_rows(machine, state):
                shown.add_row(*row)
        out.print(shown)


def state_rows(machine: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each way from the present state to `state`: who asks, and what it needs."""
    name, here = state["state"], machine["state"]
    ways = [way for way in machine["transitions"] if way["to"] == name]
    if name == here:
        yield name, "is the present one", ""
    elif not ways:
        who = f"no transition leads there from {here}"
        asked = f"; elsewhere by {', '.join(state['by'])}" if state["by"] else ""
        yield name, f"{who}{asked}", "-"
    for at, way in enumerate(ways):
        when = f" when {way['guard']}" if way["guard"] else ""
        parts = [f"{', '.join(way['by'])} may ask for it"] if way["by"] else []
        parts += [f"comes by itself{when}"] if way["automatic"] else []
        ready = "nothing: it comes with the next scan"
        if "operator" in way["by"]:
            ready = "nothing: an operator may ask for it now"
        elif way["by"]:
            ready = f"nothing: {', '.join(way['by'])} may ask for it now"
        yield "" if at else name, "; ".join(parts), "\n".join(way["missing"]) or ready
