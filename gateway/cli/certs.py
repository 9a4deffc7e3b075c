"""``gatepost certs``: the OPC UA server's own certificate, and whose it trusts."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from gateway.cli.output import CommandFailed, console, counted, print_json, printable, table
from gateway.cli.site import JsonOption, SiteArgument, StateOption, state_of
from gateway.core.clock import SystemClock

if TYPE_CHECKING:
    from cryptography import x509

    from gateway.opcua.security.certificates import Subject
    from gateway.opcua.security.own import Own, OwnFiles
    from gateway.opcua.security.trust import Kept, TrustFolder

T = TypeVar("T")

DIGITS_MIN: Final = 4
FILE_BYTES_MAX: Final = 4_000_000

_DIGITS: Final = re.compile(r"[0-9a-fA-F]{4,40}")

app = typer.Typer(
    help="Certificates of the OPC UA server: its own, and those of clients and users.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

WhatArgument = Annotated[
    str,
    typer.Argument(metavar="CERT", help="First digits of a thumbprint in the list, or a file."),
]
UsersOption = Annotated[
    bool, typer.Option("--users", help="The lists for certificates of people, not of programs.")
]
NewKeyOption = Annotated[bool, typer.Option("--new-key", help="Make a new key, too.")]


@app.command("list")
def show(site: SiteArgument, state: StateOption = None, json: JsonOption = False) -> None:
    """List our certificate, and the trusted, the issuing and the rejected ones."""
    from gateway.opcua.security import certificates
    from gateway.opcua.security.trust import KINDS

    folder = state_of(site, state).opcua
    own = _tried(_own_files(folder).load)
    rows = [] if own is None else [_row("own", "own", own.certificate)]
    lists = (("clients", _folder(folder, False)), ("users", _folder(folder, True)))
    rows += [
        _row(of, kept.kind, kept.certificate)
        for of, found in lists
        for kind in KINDS
        for kept in found.kept(kind)
    ]
    faults = [fault for _, found in lists for fault in found.load().faults]
    if json:
        print_json({"certificates": rows, "faults": faults})
        return
    shown = table("LIST", "NAME", "UNTIL", "THUMBPRINT", "APPLICATION URI OR HOSTS")
    for row in rows:
        kind = row["list"] if row["of"] != "users" else f"users/{row['list']}"
        names = row["uri"] or ", ".join(row["hosts"]) or "-"
        texts = (kind, row["name"] or "-", row["until"], row["thumbprint"], names)
        shown.add_row(*(printable(text, "") for text in texts))  # a stranger chose some of them
    if rows:
        console().print(shown)
    if own is None:
        console().print("no certificate of our own yet: the first start makes one, or `renew`")
    elif certificates.ends_ns(own.certificate) < SystemClock().utc_ns():
        console().print("our own certificate is out of date: `gatepost certs renew`")
    for fault in faults:
        console(stderr=True).print(f"left out: {fault}")


@app.command()
def trust(
    site: SiteArgument,
    what: WhatArgument,
    users: UsersOption = False,
    issuer: Annotated[
        bool, typer.Option("--issuer", help="It only completes chains; nobody is trusted by it.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Trust a certificate that was rejected, or that of a file; a running gateway sees it at once.

    An authority's certificate makes all trusted that it issued; its list of revoked ones (CRL) must
    be there, too: give its file in the same way.
    """
    from gateway.opcua.security.trust import ISSUERS, REJECTED, TRUSTED

    folder = _folder(private_folder(site, state), users)
    folder.make()
    kind = ISSUERS if issuer else TRUSTED
    if not _is_digits(what):
        path = _file(what)
        data = _read(path)
        if _keep_crl(folder, issuer, path, data):
            return
        # Behind the first one stand those that issued it; by them nobody else is to be trusted.
        for position, certificate in enumerate(_certificates(path, data)):
            kept_in = folder.put(ISSUERS if position else kind, certificate)
            console().print(f"{_name(certificate)}: {kept_in}")
        return
    kept = _found(folder, what, (REJECTED, ISSUERS, TRUSTED))
    folder.put(kind, kept.certificate)
    _take_out(folder, kept.thumbprint, *({REJECTED, ISSUERS, TRUSTED} - {kind}))
    console().print(f"{_name(kept.certificate)}: {kind} {kept.thumbprint}")


@app.command()
def reject(
    site: SiteArgument,
    what: WhatArgument,
    users: UsersOption = False,
    state: StateOption = None,
) -> None:
    """Trust a certificate no more; sessions with it end within seconds."""
    from gateway.opcua.security.trust import ISSUERS, TRUSTED

    folder = _folder(state_of(site, state).opcua, users)
    kept = _found(folder, what, (TRUSTED, ISSUERS))
    folder.make()
    folder.reject(kept.certificate)
    _take_out(folder, kept.thumbprint, TRUSTED, ISSUERS)
    console().print(f"{_name(kept.certificate)}: rejected {kept.thumbprint}")


@app.command()
def remove(
    site: SiteArgument,
    what: WhatArgument,
    users: UsersOption = False,
    state: StateOption = None,
) -> None:
    """Take a certificate out of its list; it is not trusted any more, nor kept as rejected."""
    from gateway.opcua.security.trust import KINDS

    folder = _folder(state_of(site, state).opcua, users)
    kept = _found(folder, what, KINDS)
    lists = " and ".join(_take_out(folder, kept.thumbprint, *KINDS))
    console().print(f"{_name(kept.certificate)}: removed from {lists} {kept.thumbprint}")


@app.command()
def renew(site: SiteArgument, new_key: NewKeyOption = False, state: StateOption = None) -> None:
    """Make a new certificate that we sign ourselves, for another five years.

    Every client must be told to trust it. The running gateway uses it for new connections.
    """
    files, subject = _subject(site, state)
    now_ns = SystemClock().utc_ns()
    _tell(_tried(lambda: files.renew(subject, now_ns, new_key=new_key)), files)


@app.command()
def request(
    site: SiteArgument,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where it goes.")
    ] = None,
    new_key: NewKeyOption = False,
    state: StateOption = None,
) -> None:
    """Print a certificate request (PKCS #10, PEM) for an authority; `install` takes its answer."""
    files, subject = _subject(site, state)
    pem = _tried(lambda: files.request(subject, new_key=new_key))
    if file is None:
        sys.stdout.write(pem.decode())
    else:
        file.write_bytes(pem)
        console().print(f"{file}: request for {subject.uri}")


@app.command()
def install(
    site: SiteArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The certificate, DER or PEM.")],
    state: StateOption = None,
) -> None:
    """Use a certificate that an authority issued for our request."""
    files, subject = _subject(site, state)
    data = _read(file)
    _tell(_tried(lambda: files.install(data, subject.uri, SystemClock().utc_ns())), files)


@app.command()
def export(
    site: SiteArgument,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Where it goes: .pem as PEM, else DER; default PEM."),
    ] = None,
    state: StateOption = None,
) -> None:
    """Give out our certificate, for a client that must trust it. No secret is in it."""
    from cryptography.hazmat.primitives.serialization import Encoding

    own = _tried(_own_files(state_of(site, state).opcua).load)
    if own is None:
        raise CommandFailed("there is none yet; `gatepost certs renew` makes one")
    pem = own.certificate.public_bytes(Encoding.PEM)
    if file is None:
        sys.stdout.write(pem.decode())
        return
    file.write_bytes(pem if file.suffix == ".pem" else own.der)
    console().print(f"{file}: {own.uri}")


# ---------------------------------------------------------------- shared


def private_folder(site: Path, state: Path | None) -> Path:
    """The folder of certificates and users; made where it isn't there, for its owner only.

    Raises CommandFailed, SiteError, OSError.
    """
    paths = state_of(site, state)
    paths.make()
    paths.opcua.mkdir(mode=0o700, exist_ok=True)
    return paths.opcua


def _tried(work: Callable[[], T]) -> T:
    from gateway.opcua.security.own import OwnError

    try:
        return work()
    except OwnError as error:
        raise CommandFailed(str(error)) from None


def _own_files(folder: Path) -> OwnFiles:
    from gateway.opcua.security.own import OwnFiles

    return OwnFiles(folder / "own")


def _folder(folder: Path, users: bool) -> TrustFolder:
    from gateway.opcua.security.trust import TrustFolder

    return TrustFolder(folder / "users" if users else folder)


def _subject(site: Path, state: Path | None) -> tuple[OwnFiles, Subject]:
    """Our files, and what a certificate says; the URI stays that of the present one."""
    from config.load import require_site
    from gateway.opcua.security.certificates import Subject, subject_of
    from gateway.opcua.security.own import OwnError

    files = _own_files(private_folder(site, state))
    loaded = require_site(site)
    subject = subject_of(loaded.link.OpcUa, loaded.name, socket.gethostname())
    with contextlib.suppress(OwnError):  # a broken file is what `renew` mends
        own = files.load()
        if own is not None and own.uri:
            return files, Subject(own.uri, subject.name, subject.hosts)
    return files, subject


def _is_digits(what: str) -> bool:
    return _DIGITS.fullmatch(what) is not None and not Path(what).exists()


def _found(folder: TrustFolder, what: str, kinds: tuple[str, ...]) -> Kept:
    """The one certificate that is meant. Raises CommandFailed."""
    from gateway.opcua.security.certificates import der_of, thumbprint

    if _is_digits(what):
        digits = what.upper()
    else:
        path = _file(what)
        digits = thumbprint(der_of(_certificates(path, _read(path))[0]))
    every = [kept for kind in kinds for kept in folder.kept(kind)]
    found = {kept.thumbprint: kept for kept in every if kept.thumbprint.startswith(digits)}
    if len(found) > 1:
        raise CommandFailed(f"{what}: {counted(len(found), 'certificate')} begin so; give more")
    if not found:
        lists = " or ".join(kinds)
        raise CommandFailed(f"no certificate {what} in the list {lists}; see `gatepost certs list`")
    return next(iter(found.values()))


def _take_out(folder: TrustFolder, digits: str, *kinds: str) -> list[str]:
    """Out of all of these lists: a trusted client that was turned away once stands in two."""
    return [kind for kind in kinds if folder.take_out(kind, digits)]


def _file(what: str) -> Path:
    path = Path(what)
    if not path.exists():
        text = f"{what}: no such file; give one, or {DIGITS_MIN} digits of a thumbprint or more"
        raise CommandFailed(f"{text}, without colons")
    return path


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise CommandFailed(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    return data


def _certificates(path: Path, data: bytes) -> list[x509.Certificate]:
    from gateway.opcua.security.certificates import CertificateError, read_chain

    try:
        return read_chain(data)
    except CertificateError as error:
        raise CommandFailed(f"{path}: {error}") from None


def _keep_crl(folder: TrustFolder, issuer: bool, path: Path, data: bytes) -> bool:
    """Keep a list of revoked certificates; False where the file is none."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from gateway.core.files import replace_file
    from gateway.opcua.security.certificates import CertificateError
    from gateway.opcua.security.trust import crl_name, read_crl

    try:
        crl = read_crl(data)
    except CertificateError:
        return False
    kept = folder.crls[issuer] / crl_name(crl)
    replace_file(kept, crl.public_bytes(Encoding.DER), 0o600)
    console().print(f"{path.name}: {counted(len(crl), 'revoked certificate')}: {kept}")
    return True


def _name(certificate: x509.Certificate) -> str:
    from gateway.opcua.security.certificates import common_name

    return printable(common_name(certificate), "") or "certificate"


def _row(of: str, kind: str, certificate: x509.Certificate) -> dict[str, Any]:
    from config.command_keys import utc_text
    from gateway.opcua.security import certificates

    uris = certificates.uris_of(certificate)
    return {
        "of": of,
        "list": kind,
        "name": certificates.common_name(certificate),
        "uri": uris[0] if uris else "",
        "hosts": certificates.hosts_of(certificate),
        "until": utc_text(certificates.ends_ns(certificate)),
        "self_signed": certificates.is_self_signed(certificate),
        "thumbprint": certificates.thumbprint(certificates.der_of(certificate)),
    }


def _tell(own: Own, files: OwnFiles) -> None:
    from config.command_keys import utc_text
    from gateway.opcua.security.certificates import ends_ns, thumbprint

    until = utc_text(ends_ns(own.certificate))
    console().print(f"{files.public_file}: {own.uri}, thumbprint {thumbprint(own.der)}, to {until}")
