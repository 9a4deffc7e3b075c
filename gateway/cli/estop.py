"""``gatepost estop``: the emergency stop of the gateway that runs on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from gateway.cli.operate import BAD_STEPS
from gateway.cli.output import EXIT_BAD, console, number, print_json
from gateway.cli.protect import command_for, run_command
from gateway.cli.session import session
from gateway.cli.site import JsonOption, SiteArgument, StateOption, Target, target_of
from gateway.local import LocalClient

TAG: Final = "Gateway.E_Stop"
TURN_S: Final = 0.1
TURNS_MAX: Final = 100  # what outputs did not tell by then is seen in `gatepost status`
QUIET_TURNS: Final = 10  # without anything new: the outputs have what they were driven to
TOLD_STEPS: Final = ("driven", "verified", "failed")
PROTECTIVE: Final = ("trip", "interlock")


def estop(
    site: SiteArgument,
    release: Annotated[
        bool, typer.Option("--release", help="Take the emergency stop back; latches stay.")
    ] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Ask for an emergency stop at the gateway, and print what it drove.

    Writes Gateway.E_Stop, as `gatepost write SITE Gateway.E_Stop on` does; the rules that read it
    stop the plant. Exit status 1 where no rule reads it, or where an output did not follow.
    """
    steps, driven = asyncio.run(_estop(target_of(site, state), release, json))
    if json:
        print_json({"receipts": steps, "driven": driven})
    if not steps or any(step["step"] in BAD_STEPS for step in [*steps, *driven]):
        raise typer.Exit(EXIT_BAD)


async def _estop(
    target: Target, release: bool, quiet: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The receipts of the command, and the last one of each output that a cause drove."""
    async with session(target) as (client, status):
        command = command_for(TAG, 0.0 if release else 1.0)
        steps = await run_command(client, command, quiet, ("off", "on"))
        if not steps or steps[-1]["step"] in BAD_STEPS:
            return steps, []
        driven = [] if release else await _follow(client, int(status["seq"]))
        if not quiet:
            await _show(client, driven, release)
        return steps, driven


async def _follow(client: LocalClient, after: int) -> list[dict[str, Any]]:
    """What outputs told behind an event, until nothing is new for a moment."""
    found: dict[str, dict[str, Any]] = {}
    still = 0
    for _ in range(TURNS_MAX):
        answer = await client.request({"type": "events", "kind": "receipt", "after": max(after, 1)})
        after = int(answer["last"])
        told = [
            body
            for *_, body in answer["events"]
            if body.get("cause") and body["step"] in TOLD_STEPS
        ]
        found |= {body["tag"]: body for body in told}
        still = 0 if told else still + 1
        if still >= QUIET_TURNS:
            break
        await asyncio.sleep(TURN_S)
    return list(found.values())


async def _show(client: LocalClient, driven: Sequence[Mapping[str, Any]], release: bool) -> None:
    out = console()
    tags = [body["tag"] for body in driven]
    rows = (await client.request({"type": "read", "tags": tags}))["points"] if tags else []
    about = {row["tag"]: row for row in rows}
    for body in driven:
        row = about[body["tag"]]
        shown = f"{number(float(body['value']), row['states'])} {row['units']}".rstrip()
        why = f": {body['reason']}" if body.get("reason") else ""
        out.print(f"{body['step']}: {body['tag']} = {shown}, by {body['cause']}{why}")
    rules = (await client.request({"type": "status"}))["status"]["rules"]
    names = [rule["name"] for rule in rules if rule["kind"] in PROTECTIVE]
    if release:
        names = [rule["name"] for rule in rules if rule["latched"]]
        latched = f"still latched: {', '.join(names)}; `gatepost reset SITE` ends that"
        out.print(latched if names else "nothing is latched")
    elif not driven:
        active = f"active: {', '.join(names)}" if names else "no trip and no interlock is active"
        out.print(f"no output was driven anew; {active}")
