"""``gatepost send``: a signed command to a gateway, from anywhere that reaches its broker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from config.points import PointDef
from gateway.cli.operate import BAD_STEPS, parse_value, receipt_line, user_name
from gateway.cli.output import EXIT_BAD, CommandFailed, console, print_json
from gateway.cli.site import JsonOption, need_folder
from gateway.cli.times import duration_option
from gateway.core.clock import SystemClock

if TYPE_CHECKING:
    from cloud.commands import CommandClient
    from sync.link.mqtt import BrokerAddress

NO_KEY: Final = "keys.json has no key"  # how such a refusal begins, sync/remote/judge.py


@dataclass(frozen=True, slots=True)
class _Far:
    """Where a command goes: the broker, the gateway's name there, and its points if known."""

    address: BrokerAddress
    gateway: str
    points: Mapping[str, PointDef] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What every write of the command has in common."""

    lease_ns: int
    release: bool
    comment: str


WordsArgument = Annotated[
    list[str], typer.Argument(metavar="[SITE] TAG=VALUE...", help="Site folder, and what to set.")
]
KeyOption = Annotated[
    Path, typer.Option("--key", metavar="FILE", help="Private key (PEM) to sign with.")
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Its name in keys.json; default the file's."),
]
LeaseOption = Annotated[
    str | None,
    typer.Option("--lease", metavar="DURATION", help="How long it holds, e.g. 15min or 900."),
]
ReleaseOption = Annotated[
    bool, typer.Option("--release", help="Give the points back instead of setting them.")
]
ExpiresOption = Annotated[
    str, typer.Option("--expires", metavar="DURATION", help="Not to be begun after this time.")
]
WaitOption = Annotated[
    str, typer.Option("--wait", metavar="DURATION", help="How long to wait for receipts.")
]
CommentOption = Annotated[
    str, typer.Option("--comment", metavar="TEXT", help="Why, for the audit.")
]
BrokerOption = Annotated[
    str | None,
    typer.Option("--broker", metavar="URL", help="mqtts://[user@]host:port, without a SITE."),
]
GatewayOption = Annotated[
    str | None,
    typer.Option("--gateway", metavar="NAME", help="With --broker: the site's name in topics."),
]
PasswordOption = Annotated[
    str | None, typer.Option("--password-file", metavar="FILE", help="With --broker.")
]
AuthorityOption = Annotated[
    str | None, typer.Option("--authority-file", metavar="FILE", help="With --broker (PEM).")
]
CertificateOption = Annotated[
    str | None, typer.Option("--certificate-file", metavar="FILE", help="With --broker (PEM).")
]
CertificateKeyOption = Annotated[
    str | None,
    typer.Option("--key-file", metavar="FILE", help="The certificate's key, with --broker."),
]


def send(
    words: WordsArgument,
    key: KeyOption,
    signed_as: AsOption = None,
    lease: LeaseOption = None,
    release: ReleaseOption = False,
    expires: ExpiresOption = "1min",
    wait: WaitOption = "15s",
    comment: CommentOption = "",
    broker: BrokerOption = None,
    gateway: GatewayOption = None,
    password_file: PasswordOption = None,
    authority_file: AuthorityOption = None,
    certificate_file: CertificateOption = None,
    key_file: CertificateKeyOption = None,
    json: JsonOption = False,
) -> None:
    """Send a signed command over the broker, and print every receipt of the gateway.

    SITE gives broker, names and states from its files; without it --broker and --gateway do. Exit
    status 0 where every point was accepted and none failed, 1 where one was refused or failed, or
    no receipt came.
    """
    from sync.errors import LinkError

    # What is given back has no value; there the SITE is the first word.
    count = 0 if release and broker is not None else 1
    settings = words[count:] if release else [word for word in words if "=" in word]
    sites = words[:count] if release else [word for word in words if "=" not in word]
    files = (password_file, authority_file, certificate_file, key_file)
    try:
        far = _far(sites, broker, gateway, files)
        wish = _wish(lease, release, comment)
        payload = [_write(word, wish, far) for word in settings]
        if not payload:
            raise CommandFailed("name a point and its value: Battery.Power=5")
        life_ns = _duration("--expires", expires)
        wait_s = _duration("--wait", wait) / 1e9
        receipts = asyncio.run(
            _send(far, key, signed_as or key.stem, payload, life_ns, wait_s, quiet=json)
        )
    except LinkError as error:
        raise CommandFailed(str(error)) from None
    if json:
        print_json(receipts)
    elif not receipts:
        text = f"no receipt within {wait}: is the gateway {far.gateway} connected to this broker?"
        console(stderr=True).print(f"{text} It begins nothing of this after {expires}.")
    if signed_as is None and any(NO_KEY in str(r.get("reason", "")) for r in receipts):
        text = f"{key.stem} is the name of the file: give the key's name in keys.json with --as"
        console(stderr=True).print(text, markup=False)
    accepted = {r["command"] for r in receipts if r["step"] == "accepted"}
    if len(accepted) < len(payload) or any(r["step"] in BAD_STEPS for r in receipts):
        raise typer.Exit(EXIT_BAD)


def _far(
    sites: Sequence[str],
    broker: str | None,
    gateway: str | None,
    files: tuple[str | None, str | None, str | None, str | None],
) -> _Far:
    """Raises CommandFailed, SiteError, LinkError."""
    from sync.link.mqtt import TlsFiles, address_of, parse_url

    if (broker is None) != (gateway is None):
        raise CommandFailed("--broker and --gateway go together, in place of a SITE")
    if broker is not None and gateway is not None:
        if sites:
            raise CommandFailed(f"{sites[0]}: give either a SITE or --broker, and TAG=VALUE")
        return _Far(parse_url(broker, files[0], TlsFiles(*files[1:])), gateway)
    if len(sites) != 1:
        raise CommandFailed("give a SITE, or --broker with --gateway, and TAG=VALUE")
    if any(files):
        raise CommandFailed("files for the connection go with --broker; those of SITE are used")
    from config.load import require_site

    site = require_site(need_folder(Path(sites[0])))
    points = {point.tag: point for point in site.points}
    return _Far(address_of(site.link.Broker), site.name, points)


def _wish(lease: str | None, release: bool, comment: str) -> _Wish:
    if release:
        if lease is not None:
            raise CommandFailed("--release takes no --lease")
        return _Wish(0, True, comment)
    if lease is None:
        raise CommandFailed("a remote setpoint needs a --lease, e.g. 15min; then it falls back")
    return _Wish(_duration("--lease", lease), False, comment)


def _duration(option: str, text: str) -> int:
    """The nanoseconds of an option; a bare number counts seconds. Raises CommandFailed."""
    seconds = f"{text}s" if text.replace(".", "", 1).isdigit() else text
    return duration_option(option, seconds, zero=False)


def _write(word: str, wish: _Wish, far: _Far) -> dict[str, Any]:
    tag, _, text = word.partition("=")
    point = far.points.get(tag)
    if far.points and point is None:
        from gateway.local import nearest_point

        raise CommandFailed(f"no such point: {tag}. {nearest_point(tag, far.points)}")
    states = point.states if point is not None else ()
    discrete = point is None or point.kind == "discrete"
    value = 0.0 if wish.release else parse_value(text, states, tag, discrete=discrete)
    common = {"lease_ns": wish.lease_ns, "release": wish.release, "comment": wish.comment}
    return {"tag": tag, "value": value, **common}


async def _send(
    far: _Far,
    key: Path,
    name: str,
    payload: Sequence[Mapping[str, Any]],
    life_ns: int,
    wait_s: float,
    *,
    quiet: bool,
) -> list[dict[str, Any]]:
    """The receipts; raises CommandFailed, LinkError."""
    from cloud.commands import COMMAND, CommandClient, Signer
    from cloud.key_files import KeyFileError, load_key
    from sync.plain import WireError

    try:
        signer = Signer(
            name, load_key(key), f"command line, {user_name()} on {socket.gethostname()}"
        )
    except KeyFileError as error:
        raise CommandFailed(str(error)) from None
    async with CommandClient(far.address, signer, SystemClock()) as client:
        try:
            message = client.message(far.gateway, COMMAND, list(payload), life_ns=life_ns)
        except (WireError, ValueError) as error:  # ValueError: a name that no topic can hold
            raise CommandFailed(str(error)) from None
        return await _follow(client, message, wait_s, far, quiet=quiet)


async def _follow(
    client: CommandClient, message: Any, wait_s: float, far: _Far, *, quiet: bool
) -> list[dict[str, Any]]:
    receipts = []
    left = set(message.parts)
    async with contextlib.aclosing(client.send(message, wait_s=wait_s)) as coming:
        async for receipt in coming:
            receipts.append(receipt)
            if not quiet:
                console().print(_line(receipt, far))
            point = far.points.get(str(receipt.get("tag", "")))
            if point is not None and not point.read_back and receipt["step"] == "driven":
                left.discard(receipt["command"])  # nothing can verify it
            if not left:
                break
    return receipts


def _line(receipt: Mapping[str, Any], far: _Far) -> str:
    tag = str(receipt.get("tag", ""))
    point = far.points.get(tag)
    if not tag:
        shown = {**receipt, "tag": ", ".join(map(str, receipt.get("tags", []))) or "the command"}
        return receipt_line(shown, "", value_shown=False)
    units, states = (point.units, point.states) if point is not None else ("", ())
    return receipt_line(receipt, units, states)
