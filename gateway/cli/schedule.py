"""``gatepost schedule``: what the gateway's schedules say, a new one from a file, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.operate import BAD_STEPS
from gateway.cli.output import EXIT_BAD, CommandFailed, console, number, one_line, print_json, table
from gateway.cli.schedule_send import Far, Plan, send_far, send_here, source
from gateway.cli.send import (
    AsOption,
    AuthorityOption,
    CertificateKeyOption,
    CertificateOption,
    PasswordOption,
    WaitOption,
)
from gateway.cli.session import session
from gateway.cli.site import JsonOption, SiteArgument, StateOption, Target, target_of
from gateway.cli.times import duration_option, duration_text, iso_utc, time_option
from gateway.core.clock import SystemClock
from gateway.core.schedule import KINDS, Schedule, pack_schedule
from gateway.local import LocalClient

app = typer.Typer(
    help="Schedules that the gateway executes by itself, link or no link.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameOption = Annotated[
    str, typer.Option("--name", metavar="NAME", help="Name; a newer one of it replaces the older.")
]


@app.command()
def show(
    site: SiteArgument,
    point: Annotated[
        str | None, typer.Option("--point", metavar="TAG", help="Also the slots of this point.")
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Show the schedules of the running gateway and what is in force now."""
    answer = asyncio.run(_show(target_of(site, state), point))
    if json:
        print_json(answer)
        return
    _print_schedules(answer)
    _print_now(answer)
    if point is not None:
        _print_slots(point, answer)


async def _show(target: Target, tag: str | None) -> dict[str, Any]:
    async with session(target) as (client, _):
        if tag is not None:  # a mistyped one is an error with a hint
            await client.request({"type": "read", "tags": [tag]})
        return await client.request({"type": "schedules", "tag": tag or ""})


def _print_schedules(answer: Mapping[str, Any]) -> None:
    out = console()
    if answer["waits"]:
        out.print(f"the schedules wait, the clock can't be true: {answer['waits']}")
    if not answer["held"]:
        out.print("no schedules")
        return
    shown = table("SCHEDULE", "KIND", "FROM", "TO", "POINTS", "SLOTS", "SENT BY", right=("POINTS",))
    for one in answer["held"]:
        times = (_time(one["start_ns"]), _time(one["end_ns"]))
        counts = (f"{one['points']}", f"{one['slots']}")
        shown.add_row(one_line(one["schedule"]), one["kind"], *times, *counts, one["source"])
    out.print(shown)


def _print_now(answer: Mapping[str, Any]) -> None:
    if not answer["now"]:
        return
    now_ns = SystemClock().utc_ns()
    shown = table("POINT", "NOW", "UNTIL", "COVERED FOR", "SCHEDULE", "")
    for line in answer["now"]:
        shown.add_row(
            line["tag"],
            f"{number(line['value'], line['states'])} {line['units']}".rstrip(),
            _time(line["end_ns"]),
            duration_text(max(0, line["until_ns"] - now_ns)),
            one_line(line["schedule"]),
            f"refused: {line['refusal']}" if line["refusal"] else "",
        )
    console().print(shown)
    if answer["now_more"]:
        console().print(f"and {answer['now_more']} more points")


def _print_slots(tag: str, answer: Mapping[str, Any]) -> None:
    shown = table("FROM", "TO", tag, "SCHEDULE", right=(tag,))
    for start_ns, end_ns, value, name in answer["slots"]:
        shown.add_row(_time(start_ns), _time(end_ns), f"{value:g}", one_line(name))
    console().print(shown)


def _time(utc_ns: int) -> str:
    return f"{iso_utc(utc_ns)[:19]}Z"


@app.command()
def send(
    site: SiteArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV: time, then a column a point.")],
    name: NameOption = "local",
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help=f"{' or '.join(KINDS)}.")
    ] = "day-ahead",
    end: Annotated[
        str | None, typer.Option("--end", metavar="TIME", help="End of the last slot.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Sign with it and send over the broker."),
    ] = None,
    signed_as: AsOption = None,
    broker: Annotated[
        str | None,
        typer.Option("--broker", metavar="URL", help="Default: the one of the site's link.json."),
    ] = None,
    password_file: PasswordOption = None,
    authority_file: AuthorityOption = None,
    certificate_file: CertificateOption = None,
    key_file: CertificateKeyOption = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="DURATION", help="Not to be taken after this time.")
    ] = "1min",
    wait: WaitOption = "15s",
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Give a gateway a schedule from a file; it takes the place of the older one of this name.

    To the gateway on this machine, or with --key signed over its broker. Exit status 0 where it
    was accepted, which means that it is on the gateway's disk; 1 where it was refused.
    """
    if kind not in KINDS:
        raise CommandFailed(f"--kind {kind}: there are {' and '.join(KINDS)}")
    plan = Plan(file, name, kind, time_option("--end", end))
    files = (password_file, authority_file, certificate_file, key_file)
    if broker is None and any(files):
        raise CommandFailed("files for the connection go with --broker; those of SITE are used")
    if key is None and broker is not None:
        raise CommandFailed("--broker goes with --key: a gateway takes signed schedules only")
    if key is None:
        receipts = asyncio.run(send_here(target_of(site, state), plan))
    else:
        life_ns = duration_option("--expires", expires, zero=False)
        wait_ns = duration_option("--wait", wait, zero=False)
        far = Far(key, signed_as or key.stem, broker, files, life_ns, wait_ns)
        receipts = asyncio.run(send_far(site, plan, far))
    _conclude(receipts, json)


@app.command()
def clear(
    site: SiteArgument,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Only the schedules of this name.")
    ] = None,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """End the schedules of the running gateway at once; their outputs fall back.

    Whoever sends a newer version of one begins it again.
    """
    receipts = asyncio.run(_clear(target_of(site, state), name))
    if not receipts and name is not None:
        raise CommandFailed(f"no schedule is called {name}")
    _conclude(receipts, json)


async def _clear(target: Target, name: str | None) -> list[dict[str, Any]]:
    clock = SystemClock()
    async with session(target) as (client, _):
        held = (await client.request({"type": "schedules"}))["held"]
        now_ns = clock.utc_ns()
        ends = [
            Schedule(
                id=clock.new_id(),
                name=one["schedule"],
                kind=one["kind"],
                issued_ns=max(now_ns, one["issued_ns"] + 1),
                end_ns=one["end_ns"],
                source=source(),
                points={},
            )
            for one in held
            if one["end_ns"] > now_ns and name in (None, one["schedule"])
        ]
        return await _pass_on(client, ends)


async def _pass_on(client: LocalClient, schedules: Sequence[Schedule]) -> list[dict[str, Any]]:
    return [
        receipt
        for schedule in schedules
        async for receipt in client.schedule(pack_schedule(schedule))
    ]


def _conclude(receipts: Sequence[Mapping[str, Any]], json: bool) -> None:
    if json:
        print_json(receipts)
    else:
        for receipt in receipts:
            reason = f": {receipt['reason']}" if receipt["reason"] else ""
            name = receipt.get("schedule") or "message"
            console().print(f"{receipt['step']}: schedule {name}{reason}")
        if not receipts:
            console().print("no schedules")
    if any(receipt["step"] in BAD_STEPS for receipt in receipts):
        raise typer.Exit(EXIT_BAD)
