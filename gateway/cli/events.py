"""``gatepost events``: what happened at the running gateway, without a historian."""

from __future__ import annotations

import asyncio
import json as json_text
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer

from gateway.cli.output import CommandFailed, console, one_line, plain, print_json, table
from gateway.cli.query import body_text
from gateway.cli.session import session
from gateway.cli.site import JsonOption, SiteArgument, StateOption, Target, target_of
from gateway.cli.times import iso_utc
from gateway.core.records import EVENT_KINDS
from gateway.local import EVENTS_ANSWER_MAX, LocalClient, LocalError

LIMIT_DEFAULT: Final = 100
FOLLOW_S: Final = 0.5
ANSWER_S: Final = 10.0


def events(
    site: SiteArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help=f"Only {', '.join(EVENT_KINDS)}.")
    ] = "",
    limit: Annotated[
        int,
        typer.Option(
            "--limit", metavar="ROWS", min=1, max=EVENTS_ANSWER_MAX, help="The newest at most."
        ),
    ] = LIMIT_DEFAULT,
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Print the newest events that the running gateway holds; it needs no historian.

    With --follow and --json, one JSON object a line.
    """
    if kind and kind not in EVENT_KINDS:
        raise CommandFailed(f"--kind {kind}: one of {', '.join(EVENT_KINDS)}")
    target = target_of(site, state)
    if follow:
        try:
            asyncio.run(_follow(target, kind, limit, json))
        except KeyboardInterrupt:
            return
    rows = _rows(asyncio.run(_newest(target, kind, limit)))
    if json:
        print_json(rows)
        return
    shown = table("TIME", "KIND", "EVENT", right=("TIME",))
    for row in rows:
        shown.add_row(row["time"], row["kind"], one_line(body_text(row["body"])))
    console().print(shown)


async def _newest(target: Target, kind: str, limit: int) -> dict[str, Any]:
    async with session(target) as (client, _):
        return await client.request({"type": "events", "kind": kind, "count": limit})


def _rows(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "time": iso_utc(utc_ns),
            "kind": kind,
            "body": body,
            "epoch": answer["epoch"],
            "seq": seq,
        }
        for seq, utc_ns, kind, body in answer["events"]
    ]


async def _follow(target: Target, kind: str, limit: int, json: bool) -> None:
    """Print events until it is cancelled; a gateway that restarts is waited for."""
    answer = await _newest(target, kind, limit)
    away = False
    while True:
        _print(_rows(answer), json)
        epoch, after = answer["epoch"], answer["last"]
        answer = {}
        while not answer:
            await pause(FOLLOW_S)
            try:
                answer = await _behind(target, kind, epoch, after)
            except (LocalError, TimeoutError) as error:
                if not away:
                    _say(f"{error}; waiting for the gateway")
                away = True
        away = False
        if answer["epoch"] == epoch and after < answer["first_kept"]:
            _say("events were lost: more came than the gateway keeps")


async def pause(seconds: float) -> None:
    """Between two questions."""
    await asyncio.sleep(seconds)


async def _behind(target: Target, kind: str, epoch: int, after: int) -> dict[str, Any]:
    """The events behind a number; all of the new life where the gateway was restarted."""
    client = LocalClient(target.paths.field_socket)
    try:
        async with asyncio.timeout(ANSWER_S):
            await client.connect()
            message = {"type": "events", "kind": kind}
            answer = await client.request({**message, "after": after})
            return answer if answer["epoch"] == epoch else await client.request(message)
    finally:
        await client.close()


def _say(text: str) -> None:
    console(stderr=True).print(text)


def _print(rows: Iterable[Mapping[str, Any]], json: bool) -> None:
    out = console()
    for row in rows:
        if json:
            sys.stdout.write(json_text.dumps(plain(row), allow_nan=False) + "\n")
        else:
            out.print(one_line(f"{row['time']}  {row['kind']:<8}  {body_text(row['body'])}"))
    sys.stdout.flush()
