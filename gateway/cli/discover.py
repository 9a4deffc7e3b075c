"""``gatepost discover``: looks at a device that nobody has described yet, and begins its file."""

from __future__ import annotations

import asyncio
import json
import os
import re
import textwrap
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import typer

from gateway.cli.output import EXIT_BAD, CommandFailed, console, counted

if TYPE_CHECKING:
    from drivers.discovery import Discovered, Tell

FORMS: Final = (
    "modbus://host:502, modbus-rtu:///dev/ttyUSB0?baudrate=19200&parity=N, sunspec://host:502, "
    "scpi://host:5025 or opc.tcp://host:4840"
)
RTU_FORM: Final = "modbus-rtu:///dev/ttyUSB0?baudrate=..&parity=..&stopbits=..&bytesize=.."
LINE_KEYS: Final = ("baudrate", "parity", "stopbits", "bytesize")
BAUDRATES: Final = range(50, 4_000_001)
NAME: Final = re.compile(r"\w[\w-]{0,62}")  # as the site takes it, see config/load.py
ENTRY: Final = {"Active": True}
NOTHING: Final = "nothing answered that could become a channel"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where to look, and how far."""

    text: str
    url: SplitResult
    units: Sequence[int] | None
    registers: Sequence[int]
    answer_s: float | None
    tag: str
    writable: bool
    tell: Tell

    def place(self, port: int, *, more: bool = False) -> tuple[str, int]:
        """Host and port of the URL; `more`: it may have a user and a path. Raises CommandFailed."""
        url, shown = self.url, self.text
        try:
            given = url.port
        except ValueError as error:
            raise CommandFailed(f"{shown}: {error}") from error
        if not url.hostname:
            raise CommandFailed(f"{shown}: the host is missing. Use {FORMS}")
        if given == 0:
            raise CommandFailed(f"{shown}: a port is 1 to 65535")
        if not more and (url.username or url.path.strip("/") or url.query or url.fragment):
            raise CommandFailed(f"{shown}: only host and port are understood. Use {FORMS}")
        return url.hostname, port if given is None else given


def discover(
    url: Annotated[str, typer.Argument(metavar="URL", help=FORMS + ".")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the file; without it, print it."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file where it exists.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The equipment's name in the file."),
    ] = None,
    tag: Annotated[
        str, typer.Option("--tag", metavar="TAG", help="Scan class of all channels.")
    ] = "LowSpeed",
    writable: Annotated[
        bool, typer.Option("--writable", help="List what can be written as RW, not as R.")
    ] = False,
    units: Annotated[
        str | None,
        typer.Option(
            "--units",
            metavar="UNITS",
            help="Modbus units to try, e.g. 1-10,40; default 1-247, SunSpec 1.",
        ),
    ] = None,
    registers: Annotated[
        str,
        typer.Option("--registers", metavar="FIRST-LAST", help="Modbus addresses to try."),
    ] = "0-9999",
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="SECONDS", min=0.001, max=60, help="Wait so long for each answer."
        ),
    ] = None,
) -> None:
    """Look at a device and write the beginning of its instrument file. Nothing is changed in it.

    Exit status 1 where nothing answered.
    """
    if out is not None:
        _free(out, force)
    if name is not None and not NAME.fullmatch(name):
        raise CommandFailed(f"--name {name}: letters, digits, _ and -, 63 at most")
    if not tag.strip() or not tag.isprintable():
        raise CommandFailed("--tag: a scan class has a name")
    wanted = Wanted(
        url,
        _parsed(url),
        None if units is None else numbers(units, "--units", 247),
        numbers(registers, "--registers", 65_535),
        timeout,
        tag,
        writable,
        console(stderr=True).print,
    )
    _keep(wanted, _look(wanted), out, force, name)


def _keep(
    wanted: Wanted, found: Discovered, out: Path | None, force: bool, name: str | None
) -> None:
    """Say what was found, and print or write the file. Raises CommandFailed, OSError."""
    for line in found.notes:
        wanted.tell(line)
    if not found.channels:
        where = ""
        if wanted.url.scheme.startswith("modbus"):
            first, last = wanted.registers[0], wanted.registers[-1]
            where = f" in the registers {first} to {last}; look elsewhere with --registers"
        raise CommandFailed(found.broken or f"{wanted.text}: {NOTHING}{where}", EXIT_BAD)
    wanted.tell(counted(len(found.channels), "channel"))
    text = file_text(found, name, wanted.tag)
    if out is None:
        print(text, end="")
    else:
        _write(out, text, force)
        entry = json.dumps({name or found.tags["EquipmentName"]: ENTRY | {"Config": out.name}})
        wanted.tell(f"written to {out}. In the site's *-Config.json, Equipment has: {entry[1:-1]}")
    if found.broken:
        text = f"the look ended early, something may be missing: {found.broken}"
        raise CommandFailed(text, EXIT_BAD)


def _parsed(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise CommandFailed(f"{url}: {error}") from error


def numbers(text: str, option: str, largest: int) -> list[int]:
    """``1-10,40`` as whole numbers, rising, each once. Raises CommandFailed."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise CommandFailed(f"{option} {text}: use numbers like 1-10,40") from None
        if not 0 <= low <= high <= largest:
            raise CommandFailed(f"{option} {text}: {part} is no range within 0 to {largest}")
        found |= set(range(low, high + 1))
    return sorted(found)


def file_text(found: Discovered, name: str | None, tag: str) -> str:
    """The instrument file. Raises CommandFailed where it would be none."""
    from pydantic import ValidationError

    from config.model import InstrumentFile

    tags = found.tags | ({"EquipmentName": name} if name else {})
    channels = {key: keys | {"Tags": [tag]} for key, keys in found.channels.items()}
    content = {"EquipmentTags": tags, "Channels": channels}
    try:
        InstrumentFile.model_validate(content)
    except ValidationError as error:
        raise CommandFailed(f"what was found makes no instrument file: {error}") from error
    # A channel a line: that is what is edited next.
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(c)}" for key, c in channels.items())
    head = textwrap.indent(json.dumps(tags, indent=2), "  ").lstrip()
    return f'{{\n  "EquipmentTags": {head},\n  "Channels": {{\n{lines}\n  }}\n}}\n'


def _free(out: Path, force: bool) -> None:
    """Raises CommandFailed where the file can't be written, before anything takes its time."""
    if os.path.lexists(out) and not force:
        raise CommandFailed(f"{out} exists; name another file, or say --force")
    if out.exists() and not out.is_file():
        raise CommandFailed(f"{out} is no file that could be overwritten")
    folder = out.resolve().parent
    if not folder.is_dir():
        raise CommandFailed(f"{out}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommandFailed(f"{out}: no right to write into {folder}")


def _write(out: Path, text: str, force: bool) -> None:
    """Write the whole file or none. Raises CommandFailed, or OSError."""
    out = out.resolve()  # a link stays one
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        if not force and os.path.lexists(out):
            raise CommandFailed(f"{out} exists; name another file, or say --force")
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------- by protocol


def _look(wanted: Wanted) -> Discovered:
    from drivers.errors import DriverError

    looker = LOOKERS.get(wanted.url.scheme)
    if looker is None:
        raise CommandFailed(f"{wanted.text}: use {FORMS}")
    try:
        return asyncio.run(_run(looker, wanted))
    except DriverError as error:
        raise CommandFailed(str(error) or type(error).__name__, EXIT_BAD) from error
    except KeyboardInterrupt:
        raise CommandFailed("interrupted; nothing was written") from None


async def _run(looker: Callable[[Wanted], Awaitable[Discovered]], wanted: Wanted) -> Discovered:
    return await looker(wanted)


async def _modbus(wanted: Wanted) -> Discovered:
    from drivers.modbus.discover import ANSWER_S, UNITS, discover_modbus

    return await discover_modbus(
        wanted.place(502),
        wanted.tell,
        units=wanted.units or UNITS,
        addresses=wanted.registers,
        answer_s=wanted.answer_s or ANSWER_S,
    )


async def _modbus_rtu(wanted: Wanted) -> Discovered:
    from drivers.modbus.discover import ANSWER_S, UNITS, Serial, discover_modbus

    url = wanted.text
    given = dict(parse_qsl(wanted.url.query, keep_blank_values=True))
    wrong = set(given) - set(LINE_KEYS)
    if wrong or wanted.url.netloc or not wanted.url.path.strip("/"):
        raise CommandFailed(f"{url}: use {RTU_FORM}")
    parity = given.pop("parity", "N").upper()
    try:
        line = Serial(
            unquote(wanted.url.path), parity=parity, **{k: int(v) for k, v in given.items()}
        )
    except ValueError:
        raise CommandFailed(f"{url}: baudrate, stopbits and bytesize are numbers") from None
    if parity not in ("N", "E", "O") or line.stopbits not in (1, 2) or line.bytesize != 8:
        raise CommandFailed(f"{url}: parity is N, E or O, stopbits 1 or 2, bytesize 8")
    if line.baudrate not in BAUDRATES:
        raise CommandFailed(f"{url}: a baudrate is {BAUDRATES[0]} to {BAUDRATES[-1]}")
    return await discover_modbus(
        line,
        wanted.tell,
        units=wanted.units or UNITS,
        addresses=wanted.registers,
        answer_s=wanted.answer_s or ANSWER_S,
    )


async def _scpi(wanted: Wanted) -> Discovered:
    from drivers.scpi.discover import discover_scpi

    return await discover_scpi(
        wanted.place(5025),
        wanted.tell,
        answer_s=wanted.answer_s or 1.0,
        writable=wanted.writable,
    )


async def _sunspec(wanted: Wanted) -> Discovered:
    from drivers.discovery import Discovered
    from drivers.errors import DriverError
    from drivers.sunspec.discover import discover_device
    from gateway.core.clock import SystemClock

    units = wanted.units or [1]
    if len(units) > 1:
        raise CommandFailed("--units: a SunSpec device is one unit; `modbus://` finds several")
    host, port = wanted.place(502)
    try:
        found = await discover_device(
            host,
            port,
            units[0],
            SystemClock(),
            timeout_s=wanted.answer_s or 1.0,
            tags=[wanted.tag],
            writable=wanted.writable,
        )
    except DriverError as error:
        hint = "" if wanted.units else "; --units names another unit than 1"
        raise CommandFailed(f"{host}:{port}: {error}{hint}", EXIT_BAD) from error
    models = ", ".join(str(each.model) for each in found.models)
    notes = [" ".join(filter(None, found.identity.values())), f"models {models}", *found.notes]
    if found.unknown:
        notes.append(f"models without a definition: {', '.join(map(str, found.unknown))}")
    return Discovered(found.instrument["EquipmentTags"], found.instrument["Channels"], notes)


async def _opcua(wanted: Wanted) -> Discovered:
    from drivers.discovery import Discovered
    from drivers.opcua.browse import TIMEOUT_S, browse_server

    wanted.place(4840, more=True)
    content = await browse_server(
        wanted.text, tags=[wanted.tag], timeout_s=wanted.answer_s or TIMEOUT_S
    )
    channels = content["Channels"]
    writable = [name for name, keys in channels.items() if keys["ReadWrite"] != "R"]
    if wanted.writable or not writable:
        return Discovered(content["EquipmentTags"], channels)
    for name in writable:  # a control that nobody asked for is a risk
        channels[name]["ReadWrite"] = "R"
    note = (
        f"{counted(len(writable), 'variable')} can be written and stand as R; --writable makes RW"
    )
    return Discovered(content["EquipmentTags"], channels, [note])


LOOKERS: Final[dict[str, Callable[[Wanted], Awaitable[Discovered]]]] = {
    "modbus": _modbus,
    "modbus-rtu": _modbus_rtu,
    "scpi": _scpi,
    "sunspec": _sunspec,
    "opc.tcp": _opcua,
}
