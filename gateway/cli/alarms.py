"""``gatepost alarms``, ``ack``, ``shelve`` and ``service``: the operator's alarm list.

They speak to the gateway that runs on this machine. Every client sees the same alarms, and every
action is an event with the name of who did it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from rich.console import RenderableType
from rich.text import Text

from config.findings import nearest
from config.points import rule_channel, rule_tag
from gateway.cli.alarm_view import alarm_list, alarm_sheet, figures_view, untold
from gateway.cli.operate import BAD_STEPS, receipt_line, user_name
from gateway.cli.output import EXIT_BAD, CommandFailed, console, print_json
from gateway.cli.session import ANSWER_S, session
from gateway.cli.site import JsonOption, SiteArgument, StateOption, Target, target_of
from gateway.cli.times import duration_option
from gateway.core.clock import SystemClock
from gateway.core.records import Command
from gateway.local import LocalClient, LocalError
from safety import alarm_states

PARALLEL: Final = 16  # connections at a time; the field process takes 32
DONE: Final = {
    "acknowledge": "acknowledged",
    "shelve": "shelved",
    "unshelve": "unshelved",
    "out-of-service": "out of service",
    "in-service": "in service",
}
UNACKNOWLEDGED: Final = tuple(alarm_states.STATES[at] for at in alarm_states.UNACKNOWLEDGED_STATES)

AlarmsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ALARM", help="Names or tags of alarms."),
]
AlarmArgument = Annotated[
    str, typer.Argument(metavar="ALARM", help="Name or tag of an alarm, e.g. Cell_OverTemp.")
]
CommentOption = Annotated[
    str, typer.Option("--comment", metavar="TEXT", help="Why; stands in the event.")
]


def alarms(
    site: SiteArgument,
    alarm: AlarmsArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Also the alarms that are normal.")] = False,
    figures: Annotated[
        bool, typer.Option("--figures", help="How the alarm system does: rates, floods, chatter.")
    ] = False,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Show the alarms of the running gateway; with ALARM all that is known of it."""
    target = target_of(site, state)
    wanted: dict[str, Any] = {"all": every}
    if alarm:
        wanted["tags"] = [row["tag"] for row in _named(target, alarm)]
    answer = asyncio.run(_ask(target, wanted))
    rows = answer["alarms"]
    if json:
        print_json({"alarms": rows, "figures": answer["figures"]})
        return
    console().print(*_views(rows, answer["figures"], bool(alarm), figures), sep="\n")


def _views(
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Any], named: bool, counted: bool
) -> list[RenderableType]:
    if named:
        shown = [alarm_sheet(row) for row in rows]
    else:
        shown = [alarm_list(rows), *untold(rows, figures["bad_input"])]
    return [*shown, Text(), figures_view(figures)] if counted else shown


def ack(
    site: SiteArgument,
    alarm: AlarmsArgument = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every alarm that is not acknowledged.")
    ] = False,
    comment: CommentOption = "",
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Acknowledge alarms. Exit status 1 where one was refused."""
    if bool(alarm) == every:
        raise CommandFailed("give either an ALARM, or several, or --all")
    target = target_of(site, state)
    if every:
        rows = asyncio.run(_ask(target, {"brief": True}))["alarms"]
        rows = [row for row in rows if row["state"] in UNACKNOWLEDGED]
        if not rows and not json:
            console().print("nothing to acknowledge")
    else:
        rows = _named(target, alarm or ())
    _act(target, rows, "acknowledge", comment, json)


def shelve(
    site: SiteArgument,
    alarm: AlarmArgument,
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="How long, e.g. 30min, 8h."),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the shelving now.")] = False,
    comment: CommentOption = "",
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Take an alarm out of the list for a time. Trips that read it act all the same.

    Exit status 1 where it was refused.
    """
    if (duration is None) != end:
        raise CommandFailed("give either --for DURATION or --end")
    if duration is not None and not comment.strip():
        raise CommandFailed("say why with --comment TEXT")
    lease_ns = duration_option("--for", duration)
    target = target_of(site, state)
    rows = _named(target, [alarm])
    _act(target, rows, "unshelve" if end else "shelve", comment, json, lease_ns)


def service(
    site: SiteArgument,
    alarm: AlarmArgument,
    out: Annotated[bool, typer.Option("--out", help="Take it out of service.")] = False,
    back: Annotated[bool, typer.Option("--in", help="Put it back into service.")] = False,
    comment: CommentOption = "",
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Take an alarm out of service until somebody puts it back. Trips that read it act on.

    Exit status 1 where it was refused.
    """
    if out == back:
        raise CommandFailed("give either --out or --in")
    if out and not comment.strip():
        raise CommandFailed("say why with --comment TEXT")
    target = target_of(site, state)
    rows = _named(target, [alarm])
    _act(target, rows, "out-of-service" if out else "in-service", comment, json)


# ---------------------------------------------------------------- alarms


def _named(target: Target, names: Sequence[str]) -> list[Mapping[str, Any]]:
    """The alarms that a person names, each once. Raises CommandFailed."""
    rows = asyncio.run(_ask(target, {"all": True, "brief": True}))["alarms"]
    controls = target.site.personality.controls if target.site else ()
    found = [find(rows, name, controls) for name in names]
    return list({row["tag"]: row for row in found}.values())


def find(
    rows: Sequence[Mapping[str, Any]], text: str, controls: Iterable[str] = ()
) -> Mapping[str, Any]:
    """The alarm that a person means: its name, its tag, or the tag without ``Alarms.``.

    In any case, where that is clear. Raises CommandFailed with the nearest name; `controls` are the
    trips and interlocks, which somebody may take for alarms.
    """
    names = {_short(row): row for row in rows}
    names |= {str(row["tag"]): row for row in rows}
    names |= {str(row["name"]): row for row in rows}  # the whole name goes first
    if text in names:
        return names[text]
    folded = [row for name, row in names.items() if name.lower() == text.lower()]
    if folded and all(row is folded[0] for row in folded):
        return folded[0]
    for name in controls:
        if text in (name, rule_tag("control", name), rule_channel(name)):
            raise CommandFailed(
                f"{text} is no alarm but a trip or interlock, which can't be acknowledged or "
                "shelved. `gatepost bypass` holds its cause back for maintenance"
            )
    raise CommandFailed(f"no such alarm: {text}. {nearest(text, [_short(row) for row in rows])}")


def _short(row: Mapping[str, Any]) -> str:
    return str(row["tag"]).partition(".")[2]


async def _ask(target: Target, message: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer: the field process gives a part at a time, for its scans' sake."""
    rows: list[Mapping[str, Any]] = []
    start = 0
    async with session(target) as (client, _):
        while True:
            answer = await client.request({"type": "alarms", **message, "start": start})
            rows += answer["alarms"]
            start = answer.get("next", 0)
            if not start:
                return {**answer, "alarms": rows}


def _act(
    target: Target,
    rows: Sequence[Mapping[str, Any]],
    action: str,
    comment: str,
    json: bool,
    lease_ns: int = 0,
) -> None:
    """Send one command an alarm and print what became of it; exit status 1 on a refusal."""
    clock, source = SystemClock(), f"command line, {user_name()}"
    commands = [
        Command(
            id=clock.new_id(),
            tag=row["tag"],
            value=0.0,
            lease_ns=lease_ns,
            source=source,
            action=action,
            comment=comment,
        )
        for row in rows
    ]
    receipts = asyncio.run(_submit(target, commands))
    if json:
        print_json([receipt for several in receipts for receipt in several])
    else:
        out = console()
        for several in receipts:
            for receipt in several[-1:]:
                step = DONE[action] if receipt["step"] == "verified" else receipt["step"]
                out.print(receipt_line({**receipt, "step": step}, "", value_shown=False))
    if any(not several or several[-1]["step"] in BAD_STEPS for several in receipts):
        raise typer.Exit(EXIT_BAD)


async def _submit(target: Target, commands: Sequence[Command]) -> list[list[dict[str, Any]]]:
    """The receipts of every command. Each waits for a scan, so many are sent at a time."""
    found: dict[str, list[dict[str, Any]]] = {command.id: [] for command in commands}

    async def send(mine: Sequence[Command]) -> None:
        client = LocalClient(target.paths.field_socket)
        try:
            await client.connect()
            for command in mine:
                async with asyncio.timeout(ANSWER_S):
                    async for receipt in client.command(asdict(command)):
                        found[command.id].append(receipt)
        finally:
            await client.close()

    try:
        shares = (commands[at::PARALLEL] for at in range(PARALLEL))
        await asyncio.gather(*(send(mine) for mine in shares if mine))
    except LocalError as error:
        raise CommandFailed(str(error)) from error
    except TimeoutError as error:
        raise CommandFailed(f"the field process did not answer within {ANSWER_S:g} s") from error
    return list(found.values())
