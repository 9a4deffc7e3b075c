"""``gatepost store``: what the store of a gateway holds, whether it is sound, and its contents.

Only reads, and may be used while the gateway runs; a damaged store is read as far as it goes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import (
    EXIT_BAD,
    CommandFailed,
    console,
    counted,
    number,
    print_json,
    table,
)
from gateway.cli.site import JsonOption, StateOption, state_of
from gateway.cli.times import iso_utc, time_option
from gateway.core.paths import StatePaths

if TYPE_CHECKING:
    from config.link import LinkFile
    from sync.store.reader import StoreReader

app = typer.Typer(
    name="store",
    help="What a gateway's store holds, whether it is sound, and its contents as a file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StoreArgument = Annotated[
    Path,
    typer.Argument(metavar="STORE", help="Site folder, state folder, or the file of a store."),
]


@app.command()
def status(store: StoreArgument, state: StateOption = None, json: JsonOption = False) -> None:
    """Show what a store holds, what each link still needs, and the room it takes."""
    path, link = _find(store, state)
    with _reading(path) as reader:
        shown = _status(reader, link)
    if json:
        print_json(shown)
        return
    _print_status(shown)


@app.command()
def verify(store: StoreArgument, state: StateOption = None, json: JsonOption = False) -> None:
    """Read everything and say what is damaged or missing. Exit status 1 where something is."""
    from gateway.cli.store_verify import verified

    path, _ = _find(store, state)
    with _reading(path) as reader:
        found = verified(reader)
    if json:
        print_json(found)
    else:
        for finding in found["findings"]:
            console().print(finding)
        for gap in found["gaps"]:
            console().print(
                f"declared: epoch {gap['epoch']}: {gap['first']} to {gap['last'] or '?'}: "
                f"{gap['reason']}"
            )
        console(stderr=True).print(_verdict(path, found))
    if not found["ok"]:
        raise typer.Exit(EXIT_BAD)


@app.command()
def export(
    store: StoreArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write there: *.csv or *.parquet. Default: CSV, printed."
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Only this point; repeatable.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From this time on, ISO 8601.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Before this time, ISO 8601.")
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Alarms, trips, receipts, gaps instead of values.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Write the values or events of a store as CSV or Parquet, in the order of the stream."""
    from gateway.cli.store_export import Selected, exported

    path, _ = _find(store, state)
    window = (time_option("--since", since), time_option("--until", until))
    if events and tag:
        raise CommandFailed("--tag selects values; events have none")
    with _reading(path) as reader:
        told = exported(reader, out, Selected(frozenset(tag or ()), *window), events=events)
    for line in told.warnings:
        print(f"gatepost: {line}", file=sys.stderr)
    what = "event" if events else "value"
    print(f"{counted(told.rows, what)} written", file=sys.stderr)


# ---------------------------------------------------------------- which store


def _find(where: Path, state: Path | None) -> tuple[Path, LinkFile | None]:
    """The file of a store, and the site's link.json where it is known. Raises CommandFailed."""
    if where.is_file():
        return where, None
    if not where.is_dir():
        raise CommandFailed(f"{where}: no such file or folder")
    if state is None and StatePaths(where).store.is_file():
        return StatePaths(where).store, None
    if not any(where.glob("*-Config.json")):
        raise CommandFailed(f"{where}: no store (link.sqlite) in it, and no site folder")
    from config.load import load_site

    path = state_of(where, state).store
    if not path.is_file():
        raise CommandFailed(
            f"{path}: there is no store: a gateway makes it when it runs; where it keeps its "
            "state elsewhere, name that folder with --state or GATEPOST_STATE"
        )
    site = load_site(where)[0]
    return path, site.link if site is not None else None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[StoreReader]:
    """A reader; raises CommandFailed, also for what happens inside."""
    from sync.errors import StoreDamaged, StoreError
    from sync.store.reader import StoreReader

    try:
        with StoreReader(path) as reader:
            yield reader
    except StoreDamaged as error:
        raise CommandFailed(
            f"{error}. The gateway salvages it at its next start and keeps the damaged file; "
            f"`gatepost store export {path}` reads what can be read",
            EXIT_BAD,
        ) from error
    except StoreError as error:
        raise CommandFailed(str(error)) from error


# ---------------------------------------------------------------- status


def _status(reader: StoreReader, link: LinkFile | None) -> dict[str, Any]:
    held, files, ends = reader.left(), reader.files(), reader.ends()
    known = reader.links()
    new = [name for name in (link.links() if link is not None else ()) if name not in known]
    return {
        "store": str(reader.path),
        "schema": reader.schema,
        "in_use": reader.in_use,
        "files": files,
        "bytes": sum(files.values()),
        "quota_bytes": link.Store.QuotaBytes if link is not None else None,
        "frames": held.frames,
        "let_go_frames": reader.let_go().frames,
        "thinned_frames": reader.thinned(),
        "records": held.records,
        "oldest": iso_utc(held.oldest_ns) if held.oldest_ns else None,
        "newest": iso_utc(held.newest_ns) if held.newest_ns else None,
        "epochs": [{"epoch": epoch, "last": last} for epoch, last in ends.items()],
        "links": [
            {
                "name": name,
                "new": name in new,
                "frames": left.frames,
                "records": left.records,
                "bytes": left.bytes,
                "oldest": iso_utc(left.oldest_ns) if left.oldest_ns else None,
            }
            for name, done in [*known.items(), *((name, None) for name in new)]
            for left in [reader.left(done)]
        ],
        "births": len(reader.births()),
    }


def _print_status(shown: dict[str, Any]) -> None:
    from sync.store.links import HISTORY

    rows = table("", "")
    held = "in use by a running gateway" if shown["in_use"] else "not in use"
    rows.add_row("store", f"{shown['store']}, schema {shown['schema']}, {held}")
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in shown["files"].items())
    rows.add_row("on the disk", f"{_bytes(shown['bytes'])} ({parts})")
    if shown["quota_bytes"]:
        share = 100 * shown["bytes"] / shown["quota_bytes"]
        rows.add_row("quota", f"{_bytes(shown['quota_bytes'])}, {share:.1f} % taken")
    thinned = f", {shown['thinned_frames']} of them thinned out" if shown["thinned_frames"] else ""
    rows.add_row("holds", f"{shown['frames']} frames, {number(shown['records'])} records{thinned}")
    if shown["let_go_frames"]:
        text = f"{counted(shown['let_go_frames'], 'frame')}, to be deleted with the next append"
        rows.add_row("of it let go", text)
    if shown["oldest"]:
        rows.add_row("from", f"{shown['oldest']} to {shown['newest']}")
    if shown["epochs"]:
        last = shown["epochs"][-1]
        rows.add_row("up to", f"sequence {last['last']} of epoch {last['epoch']}")
    console().print(rows)
    if shown["links"]:
        right = ("FRAMES", "RECORDS", "BYTES")
        links = table("LINK", *right, "NEEDS FROM", right=right)
        for link in shown["links"]:
            counts = (str(link["frames"]), number(link["records"]), _bytes(link["bytes"]))
            begins = "new: takes what is there at the next start of the gateway"
            name = "(history)" if link["name"] == HISTORY else link["name"]
            links.add_row(name, *counts, begins if link["new"] else link["oldest"] or "nothing")
        console().print()
        console().print(links)


def _bytes(size: int) -> str:
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= step:
            return (
                f"{size / step:.3g} {unit}" if size < 1000 * step else f"{size / step:.0f} {unit}"
            )
    return f"{size} B"


def _verdict(path: Path, found: dict[str, Any]) -> str:
    held = (
        f"{counted(found['frames'], 'frame')}, {counted(found['records'], 'record')}, "
        f"{counted(len(found['gaps']), 'declared gap')}"
    )
    structure = (
        "" if found["structure_checked"] else "; its structure is checked when it is not in use"
    )
    if found["ok"]:
        return f"{path}: sound: {held}{structure}"
    return f"{path}: {counted(len(found['findings']), 'finding')}; {held} can be read"
