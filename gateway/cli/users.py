"""``gatepost users``: who may log on to the OPC UA server, and with which role."""

from __future__ import annotations

import contextlib
import getpass
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.certs import private_folder
from gateway.cli.output import CommandFailed, console, print_json, table
from gateway.cli.site import JsonOption, SiteArgument, StateOption, state_of

if TYPE_CHECKING:
    from gateway.opcua.security.user_file import Entry

ROLE_HELP: Final = "observer, operator, engineer or administrator."
FILE_NAME: Final = "users.json"

app = typer.Typer(help="Users of the OPC UA server.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user.")]
MayOption = Annotated[
    list[str] | None,
    typer.Option("--may", metavar="PATTERN", help="Points that he may set; default all, '*'."),
]


@app.command("list")
def show(site: SiteArgument, state: StateOption = None, json: JsonOption = False) -> None:
    """List the users, their roles, and how they can log on."""
    from gateway.opcua.security.user_file import UserFileError, read_users

    try:
        users = read_users(state_of(site, state).opcua / FILE_NAME)
    except UserFileError as error:
        raise CommandFailed(str(error)) from None
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "role": entry.role,
            "points": list(entry.points),
            "password": bool(entry.password),
            "certificates": list(entry.certificates),
        }
        for entry in sorted(users.values(), key=lambda entry: entry.name.casefold())
    ]
    if json:
        print_json(rows)
        return
    if not rows:
        console().print("no users: nobody can log on with a name; `gatepost users add` makes one")
        return
    shown = table("NAME", "ROLE", "MAY SET", "PASSWORD", "CERTIFICATES")
    for row in rows:
        digits = ", ".join(row["certificates"]) or "-"
        texts = [", ".join(row["points"]), "yes" if row["password"] else "no", digits]
        shown.add_row(row["name"], row["role"], *texts)
    console().print(shown)


@app.command()
def add(
    site: SiteArgument,
    name: NameArgument,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help=ROLE_HELP)],
    may: MayOption = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="He logs on with a certificate only.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Add a user. The password is asked for, or read from standard input: one line."""
    from gateway.opcua.security.user_file import Entry, fault_of, with_password

    entry = Entry(name, role, tuple(may or ["*"]))
    fault = fault_of(entry)
    if fault:
        raise CommandFailed(fault)
    with _changing(site, state) as users:
        if name.casefold() in users:
            raise CommandFailed(f"there is a user {name} already")
        if not no_password:
            entry = with_password(entry, _new_password(name))
        users[name.casefold()] = entry
    console().print(f"{name}: {role}, may set {', '.join(entry.points)}")


@app.command()
def change(
    site: SiteArgument,
    name: NameArgument,
    role: Annotated[str | None, typer.Option("--role", metavar="ROLE", help=ROLE_HELP)] = None,
    may: MayOption = None,
    state: StateOption = None,
) -> None:
    """Give a user another role or other points; his sessions end within seconds."""
    from gateway.opcua.security.user_file import fault_of

    with _changing(site, state) as users:
        old = _found(users, name)
        entry = replace(old, role=role or old.role, points=tuple(may or old.points))
        fault = fault_of(entry)
        if fault:
            raise CommandFailed(fault)
        users[name.casefold()] = entry
    console().print(f"{entry.name}: {entry.role}, may set {', '.join(entry.points)}")


@app.command()
def password(site: SiteArgument, name: NameArgument, state: StateOption = None) -> None:
    """Set a user's password, asked for or a line of standard input; the old one's sessions end."""
    from gateway.opcua.security.user_file import with_password

    with _changing(site, state) as users:
        entry = _found(users, name)
        users[name.casefold()] = with_password(entry, _new_password(entry.name))
    console().print(f"{entry.name}: the password is set")


@app.command()
def remove(site: SiteArgument, name: NameArgument, state: StateOption = None) -> None:
    """Remove a user; his sessions end within seconds."""
    from gateway.opcua.security.trust import TRUSTED, TrustFolder

    folder = state_of(site, state).opcua
    with _changing(site, state) as users:
        entry = _found(users, name)
        del users[name.casefold()]
        kept = {digits for other in users.values() for digits in other.certificates}
    for digits in entry.certificates:
        if digits not in kept:
            TrustFolder(folder / "users").take_out(TRUSTED, digits)
    console().print(f"{entry.name}: removed")


@app.command()
def certificate(
    site: SiteArgument,
    name: NameArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="His certificate, DER or PEM.")],
    state: StateOption = None,
) -> None:
    """Let a user log on with a certificate; it becomes trusted for that."""
    from gateway.opcua.security.certificates import (
        CertificateError,
        der_of,
        read_chain,
        thumbprint,
    )
    from gateway.opcua.security.trust import TRUSTED, TrustFolder
    from gateway.opcua.security.user_file import fault_of

    folder = state_of(site, state).opcua
    try:
        found = read_chain(file.read_bytes())[0]
    except CertificateError as error:
        raise CommandFailed(f"{file}: {error}") from None
    digits = thumbprint(der_of(found))
    with _changing(site, state) as users:
        entry = _found(users, name)
        other = next((one for one in users.values() if digits in one.certificates), entry)
        if other.name != entry.name:
            raise CommandFailed(f"{file}: it is the certificate of {other.name}")
        if digits not in entry.certificates:
            entry = replace(entry, certificates=(*entry.certificates, digits))
        fault = fault_of(entry)
        if fault:
            raise CommandFailed(fault)
        users[name.casefold()] = entry
        lists = TrustFolder(folder / "users")
        lists.make()
        lists.put(TRUSTED, found)
    console().print(f"{entry.name}: certificate {digits}")


@contextlib.contextmanager
def _changing(site: Path, state: Path | None) -> Iterator[dict[str, Entry]]:
    from gateway.opcua.security.user_file import UserFileError, changing

    try:
        with changing(private_folder(site, state) / FILE_NAME) as users:
            yield users
    except UserFileError as error:
        raise CommandFailed(str(error)) from None


def _found(users: dict[str, Entry], name: str) -> Entry:
    entry = users.get(name.casefold())
    if entry is None:
        known = ", ".join(entry.name for entry in users.values()) or "none"
        raise CommandFailed(f"there is no user {name!r}. There are: {known}")
    return entry


def _new_password(name: str) -> str:
    """Typed twice at a terminal, else a line of standard input. Never an argument: others see it.

    Raises CommandFailed.
    """
    if not sys.stdin.isatty():
        line = sys.stdin.readline(2_000)
        if not line:
            raise CommandFailed("no password on standard input")
        return line.rstrip("\r\n")
    first = getpass.getpass(f"Password for {name}: ")
    if getpass.getpass("Once more: ") != first:
        raise CommandFailed("these are two passwords")
    return first
