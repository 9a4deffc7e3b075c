"""``gatepost query``: values and events out of a historian's file."""

from __future__ import annotations

import contextlib
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from config import status as codes
from gateway.cli.output import CommandFailed, console, number, one_line, print_json, table
from gateway.cli.times import iso_utc, time_option

LIMIT_DEFAULT: Final = 1000
SAMPLE_COLUMNS: Final = ("time", "gateway", "epoch", "seq", "tag", "value", "status")
BODY_ORDER: Final = ("step", "what", "tag", "name", "active", "level", "value", "cause", "reason")
ID_SHOWN: Final = 8
_ID: Final = re.compile(r"[0-9a-f]{32}")
EVENT_COLUMNS: Final = ("time", "gateway", "epoch", "seq", "kind", "body")


def query(
    historian_file: Annotated[
        Path, typer.Argument(metavar="HISTORIAN_FILE", help="SQLite file of a historian.")
    ],
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Only this point; repeatable.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From this time on, ISO 8601.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Before this time, ISO 8601.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="ROWS", min=1, help="Rows at most, the newest.")
    ] = LIMIT_DEFAULT,
    events: Annotated[
        bool, typer.Option("--events", help="Alarms, trips, receipts instead of values.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on standard output.")] = False,
) -> None:
    """Print values or events of a historian in the order of time.

    A time without an offset is UTC. Exit status 0 also where nothing matches.
    """
    if json and as_csv:
        raise CommandFailed("give either --json or --csv")
    if events and tag:
        raise CommandFailed("--tag selects values; events have none")
    from_ns, to_ns = time_option("--since", since), time_option("--until", until)
    rows = _rows(historian_file, tag, from_ns, to_ns, limit, events)
    columns = EVENT_COLUMNS if events else SAMPLE_COLUMNS
    if json:
        print_json(rows)
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    else:
        _print_table(rows, columns)


def _print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """One line a row; what is the same in all rows of most historians is left out."""
    shown_columns = [
        column
        for column in columns
        if column not in ("gateway", "epoch") or len({row[column] for row in rows}) > 1
    ]
    right = ("TIME", "VALUE", "EPOCH", "SEQ")
    events = "body" in columns
    shown = table(*(column.upper() for column in shown_columns), right=right)
    for row in rows:
        cells = [_text(row[column]) for column in shown_columns if column != "body"]
        shown.add_row(*cells, *([one_line(body_text(row["body"]))] if events else []))
    console().print(shown)


def body_text(body: dict[str, Any]) -> str:
    """What an event says, the most telling first, long identifiers by their beginning."""
    order = {key: at for at, key in enumerate(BODY_ORDER)}
    keys = sorted(body, key=lambda key: order.get(key, len(order)))
    return ", ".join(f"{key}={_short(_text(body[key]))}" for key in keys if body[key] != "")


def _short(text: str) -> str:
    return text[:ID_SHOWN] if _ID.fullmatch(text) else text


def _rows(
    file: Path,
    tags: Sequence[str] | None,
    from_ns: int | None,
    to_ns: int | None,
    limit: int,
    events: bool,
) -> list[dict[str, Any]]:
    """The newest `limit` rows in the order of time. Raises CommandFailed."""
    from cloud.historian import HistorianError
    from cloud.historian_sqlite import SqliteHistorian

    if not file.is_file():
        raise CommandFailed(f"{file}: no such file")
    try:
        historian = SqliteHistorian(file, read_only=True)
        with contextlib.closing(historian):
            if events:
                return _events(historian, from_ns, to_ns, limit)
            found = historian.query(
                tags or None, from_ns=from_ns, to_ns=to_ns, limit=limit, newest_first=True
            )
    except HistorianError as error:
        raise CommandFailed(str(error)) from error
    return [
        {
            "time": iso_utc(sample.utc_ns),
            "gateway": sample.gateway,
            "tag": sample.tag,
            "value": sample.value,
            "status": codes.name_of(sample.status),
            "epoch": sample.epoch,
            "seq": sample.seq,
        }
        for sample in reversed(found)
    ]


def _events(
    historian: Any, from_ns: int | None, to_ns: int | None, limit: int
) -> list[dict[str, Any]]:
    from cloud.historian import QUERY_ROWS_MAX

    found = [
        event
        for event in historian.events(limit=QUERY_ROWS_MAX, newest_first=True)
        if (from_ns is None or event.utc_ns >= from_ns) and (to_ns is None or event.utc_ns < to_ns)
    ]
    return [
        {
            "time": iso_utc(event.utc_ns),
            "gateway": event.gateway,
            "kind": event.kind,
            "body": event.body,
            "epoch": event.epoch,
            "seq": event.seq,
        }
        for event in reversed(found[:limit])
    ]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items() if item != "")
    return str(value)


def _cell(value: Any) -> str:
    """A CSV field; no number is an empty field, a float keeps all its digits."""
    if isinstance(value, float):
        return repr(value) if value == value else ""
    return _text(value)
