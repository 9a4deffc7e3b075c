"""``gatepost keys``: who may send commands and schedules from outside."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.output import (
    EXIT_BAD,
    CommandFailed,
    console,
    counted,
    print_json,
    table,
)
from gateway.cli.site import JsonOption, SiteArgument, need_folder
from gateway.cli.times import duration_option, time_option
from gateway.core.clock import SystemClock

TYPES: Final = ("command", "schedule", "query")
TYPES_DEFAULT: Final = ("command", "query")  # that of KeyEntry.Types
OVERLAP: Final = "7d"
TAGS_SHOWN_MAX: Final = 20

_NUMBERED: Final = re.compile(r"(.*?)(?:-(\d{1,6}))?")

app = typer.Typer(
    help="Keys of services that may send commands and schedules from outside.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key in keys.json.")]
KeyOption = Annotated[
    Path, typer.Option("--key", metavar="FILE", help="Private key (PEM), outside the site folder.")
]


@app.command()
def make(
    site: SiteArgument,
    name: NameArgument,
    key: KeyOption,
    may: Annotated[
        list[str],
        typer.Option("--may", metavar="PATTERN", help="Points that it may set, e.g. 'Battery.*'."),
    ],
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help=f"{', '.join(TYPES)}; default {' and '.join(TYPES_DEFAULT)}.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="When it ends, e.g. 2027-12-31.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a key: the private half into a new file of mode 0600, the public one into keys.json.

    A running gateway takes it at once. Give the file to the service, and to nobody else.
    """
    from config.command_keys import KeyEntry, utc_text
    from gateway.cli.key_file import changing, outside

    folder = need_folder(site)
    wrong = set(kinds or TYPES) - set(TYPES)
    if wrong:
        raise CommandFailed(f"--type {min(wrong)}: there are {', '.join(TYPES)}")
    end_ns = time_option("--until", until)
    outside(key, folder)
    with _new_key(key) as public, changing(folder) as entries:
        if any(entry.Name == name for entry in entries):
            raise CommandFailed(f"keys.json has a key {name!r} already; rotate it, or name another")
        made = KeyEntry.model_validate(
            {
                "Name": name,
                "PublicKey": public,
                "Points": may,
                "Types": [kind for kind in TYPES if kind in (kinds or TYPES_DEFAULT)],
                "NotAfter": None if end_ns is None else utc_text(end_ns),
            }
        )
        entries.append(made)
    _tell(f"{name}: private key in {key}, public key in keys.json", made.model_dump(), json)


@app.command("list")
def show(site: SiteArgument, json: JsonOption = False) -> None:
    """List the keys of a site, what they may do, and whether they count now."""
    from config.command_keys import FOREVER_NS, by_name, revoked_or_out, utc_text
    from gateway.cli.key_file import read_entries

    folder = need_folder(site)
    read_entries(folder)  # raises where the file can't be used
    now_ns = SystemClock().utc_ns()
    rows: list[dict[str, Any]] = [
        {
            "name": key.name,
            "service": key.service,
            "counts": not revoked_or_out(key, now_ns),
            "reason": revoked_or_out(key, now_ns),
            "types": list(key.types),
            "points": list(key.points),
            "until": None if key.not_after_ns == FOREVER_NS else utc_text(key.not_after_ns),
            "identity": key.identity,
        }
        for key in by_name(_known(folder))
    ]
    if json:
        print_json(rows)
        return
    if not rows:
        console().print("no keys: this site takes no commands from outside")
        return
    shown = table("NAME", "SERVICE", "STATE", "UNTIL", "MAY SEND", "FOR POINTS", "IDENTITY")
    for row in rows:
        state = row["reason"] or "counts"
        texts = [str(row["until"] or "-"), ", ".join(row["types"]), ", ".join(row["points"]) or "-"]
        shown.add_row(row["name"], row["service"], state, *texts, row["identity"])
    console().print(shown)


@app.command()
def rotate(
    site: SiteArgument,
    name: NameArgument,
    key: KeyOption,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="DURATION", help="How long the old one counts on.")
    ] = OVERLAP,
    json: JsonOption = False,
) -> None:
    """Make a successor of a key, with its rights; for a while both count, then the old one ends.

    The successor of market is market-2, then market-3. Schedules stay the service's own.
    """
    from config.command_keys import KeyEntry, revoked_or_out, utc_text
    from gateway.cli.key_file import changing, outside, position_of

    folder = need_folder(site)
    overlap_ns = duration_option("--overlap", overlap)
    outside(key, folder)
    now_ns = SystemClock().utc_ns()
    with _new_key(key) as public, changing(folder) as entries:
        position = position_of(entries, name)
        why = revoked_or_out(_known(folder)[name], now_ns)
        if why:
            raise CommandFailed(f"{name}: {why}; make a new key")
        old = entries[position].model_dump()
        stem, number = _NUMBERED.fullmatch(name).groups()  # type: ignore[union-attr]
        taken = {entry.Name for entry in entries}
        at = int(number or 1) + 1
        while f"{stem}-{at}" in taken:
            at += 1
        new_name = f"{stem}-{at}"
        new = old | {"Name": new_name, "Service": old["Service"] or name, "NotBefore": None}
        made = KeyEntry.model_validate(new | {"PublicKey": public})
        end = utc_text(now_ns + overlap_ns)
        ends = min(end, old["NotAfter"] or end)  # of this form, the earlier one is the smaller
        entries[position] = KeyEntry.model_validate(old | {"NotAfter": ends})
        entries.append(made)
    _tell(f"{new_name}: private key in {key}; {name} counts until {ends}", made.model_dump(), json)


@app.command()
def revoke(site: SiteArgument, name: NameArgument, json: JsonOption = False) -> None:
    """Revoke a key: from now on nothing that it signed counts. A running gateway sees it at once.

    What was commanded with it goes on: setpoints until their lease ends, schedules to their end.
    """
    from config.command_keys import KeyEntry, utc_text
    from gateway.cli.key_file import changing, position_of

    with changing(need_folder(site)) as entries:
        position = position_of(entries, name)
        old = entries[position]
        when = old.Revoked or utc_text(SystemClock().utc_ns())
        entries[position] = KeyEntry.model_validate(old.model_dump() | {"Revoked": when})
    _tell(f"{name}: revoked {when}", entries[position].model_dump(), json)


@app.command()
def check(site: SiteArgument, name: NameArgument, key: KeyOption, json: JsonOption = False) -> None:
    """Tell whether a private key is that of a name, counts now, and which points it may set.

    Exit status 0 where it is and does.
    """
    from cloud.key_files import KeyFileError, load_key
    from config.command_keys import revoked_or_out
    from config.load import load_site
    from gateway.cli.key_file import position_of, read_entries

    folder = need_folder(site)
    position_of(read_entries(folder), name)
    known = _known(folder)[name]
    try:
        public = load_key(key).public_key().public_bytes_raw()
    except KeyFileError as error:
        raise CommandFailed(str(error)) from None
    why = revoked_or_out(known, SystemClock().utc_ns())
    if public != known.public:
        why = f"{key} is not the private key of {name}"
    loaded, _ = load_site(folder)
    tags = [
        point.tag
        for point in (loaded.points if loaded else ())
        if point.writable and known.may_set(point.tag)
    ]
    if json:
        print_json({"ok": not why, "reason": why, "types": list(known.types), "points": tags})
    else:
        console().print(f"{name}: {why or 'the key fits and counts'}")
        shown = ", ".join(tags[:TAGS_SHOWN_MAX]) + (", ..." if len(tags) > TAGS_SHOWN_MAX else "")
        may = ", ".join(known.types) or "nothing"
        console().print(f"may send {may}; {counted(len(tags), 'point')}: {shown or '-'}")
    if why:
        raise typer.Exit(EXIT_BAD)


def _known(folder: Path) -> Any:
    from config.command_keys import load_keys

    return load_keys(folder)[0]


@contextlib.contextmanager
def _new_key(path: Path) -> Iterator[str]:
    """The public half of a new key in a file, which goes again where the block fails.

    Raises CommandFailed.
    """
    from cloud.key_files import KeyFileError, make_key
    from config.command_keys import public_text

    try:
        private = make_key(path)
    except KeyFileError as error:
        raise CommandFailed(str(error)) from None
    done = False
    try:
        yield public_text(private.public_key().public_bytes_raw())
        done = True
    finally:
        if not done:
            path.unlink(missing_ok=True)


def _tell(text: str, entry: dict[str, Any], json: bool) -> None:
    if json:
        print_json(entry)
    else:
        console().print(text)
