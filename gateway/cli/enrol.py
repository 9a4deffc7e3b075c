"""``gatepost enrol``: certificates for gateways, on both sides.

With the authority: ``authority``, ``server``, ``token``, ``serve``, ``service``, ``list``,
``revoke``. On a gateway: ``join``, ``renew``.
"""

from __future__ import annotations

import asyncio
import json as json_module
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from gateway.cli.output import EXIT_BAD, CommandFailed, console, print_json, table
from gateway.cli.site import JsonOption, SiteArgument, StateOption, need_folder, state_of
from gateway.cli.times import duration_option, duration_text, iso_utc
from gateway.core.clock import SystemClock

if TYPE_CHECKING:
    from cloud.authority import Authority
    from cloud.broker import Broker
    from cloud.enrol_book import Book, Entitled

T = TypeVar("T")

RIGHTS_PERIOD_S: Final = 1.0  # how often the broker's rights follow the book

app = typer.Typer(
    help="Certificates for gateways: an authority and its service, and a gateway's own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AuthorityArgument = Annotated[
    Path, typer.Argument(metavar="AUTHORITY", help="Folder of the authority.")
]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the site, as in topics.")
]


def _tried(work: Callable[[], T]) -> T:
    """`work`; what it refuses is a message and exit status 2."""
    from cloud.authority import AuthorityError
    from cloud.broker import BrokerError
    from cloud.enrol_book import BookError

    try:
        return work()
    except (AuthorityError, BookError, BrokerError) as error:
        raise CommandFailed(str(error)) from None


def _opened(folder: Path) -> tuple[Authority, Book]:
    from cloud.authority import Authority
    from cloud.enrol_book import Book

    need_folder(folder)
    return _tried(lambda: (Authority(folder), Book(folder)))


def _checked_name(name: str) -> str:
    from sync.topics import check_site

    try:
        return check_site(name)
    except ValueError as error:
        raise CommandFailed(str(error)) from None


# ---------------------------------------------------------------- with the authority


@app.command()
def authority(
    folder: AuthorityArgument,
    host: Annotated[
        list[str],
        typer.Option("--host", metavar="HOST", help="Name or address of service and broker."),
    ],
) -> None:
    """Make an authority: its key, its certificate, and one for the service and the broker."""
    from cloud.authority import Authority
    from sync.enrolment import fingerprint

    made = _tried(lambda: Authority.create(folder, host, SystemClock().utc_ns()))
    console().print(f"{made.file}: fingerprint {fingerprint(made.certificate).hex()}")


@app.command()
def server(
    folder: AuthorityArgument,
    host: Annotated[
        list[str],
        typer.Option("--host", metavar="HOST", help="Name or address of service and broker."),
    ],
) -> None:
    """Make a new key and certificate for the service and the broker; restart them afterwards."""
    found, _ = _opened(folder)
    _tried(lambda: found.renew_server(host, SystemClock().utc_ns()))
    console().print(f"{found.server_file}: for {', '.join(host)}")


@app.command()
def token(
    folder: AuthorityArgument,
    name: NameArgument,
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="Of the service: https://host:8884.")
    ],
    duration: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long it counts.")
    ] = "1d",
) -> None:
    """Print a one-time token for a new gateway; hand it over by a way that you trust."""
    from sync.enrolment import EnrolmentError, Token, fingerprint

    found, book = _opened(folder)
    life_ns = duration_option("--for", duration, zero=False)
    clock = SystemClock()
    expires_ns = clock.utc_ns() + life_ns
    holders = _tried(lambda: book.entitled(clock.utc_ns()))
    secret = _tried(lambda: book.new_secret(_checked_name(name), expires_ns, clock))
    made = Token(name, url.rstrip("/"), fingerprint(found.certificate), secret)
    try:
        print(Token.read(made.text()).text())
    except EnrolmentError as error:
        raise CommandFailed(f"--url {url}: {error}") from None
    said = console(stderr=True)
    said.print(f"for {name}, once, until {iso_utc(expires_ns)[:19]}Z")
    if any(holder.name == name for holder in holders):
        said.print(f"{name} has a certificate already: revoke it first if it is replaced or lost")


@app.command()
def serve(
    folder: AuthorityArgument,
    broker: Annotated[
        str,
        typer.Option("--broker", metavar="URL", help="What gateways are told: mqtts://host:8883."),
    ],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the service listens.")
    ] = "0.0.0.0:8884",
    run_broker: Annotated[
        str | None,
        typer.Option(
            "--run-broker", metavar="HOST:PORT", help="Also run a broker there, with rights."
        ),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, help="Life of a certificate.")
    ] = 365,
) -> None:
    """Run the enrolment service, and on wish a broker whose clients have rights by certificate."""
    found, book = _opened(folder)
    where = _host_port("--listen", listen)
    beside = None if run_broker is None else _host_port("--run-broker", run_broker)
    try:
        _tried(lambda: asyncio.run(_serve(found, book, broker, where, beside, days)))
    except OSError as error:
        raise CommandFailed(f"--listen {listen}: {error.strerror}") from None


def _host_port(option: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) < 65_536:
        raise CommandFailed(f"{option} {text}: expected HOST:PORT")
    return host.strip("[]"), int(port)


async def _serve(
    found: Authority,
    book: Book,
    url: str,
    where: tuple[str, int],
    beside: tuple[str, int] | None,
    days: int,
) -> None:
    from cloud.broker import Broker, Secured
    from cloud.enrol import EnrolmentService
    from cloud.rights import rights_of

    clock = SystemClock()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    entitled = book.entitled(clock.utc_ns())
    server: Broker | None = None
    if beside is not None:
        secured = Secured(found.server_file, found.server_key_file, found.file, beside[0])
        directory = found.folder / "broker"
        server = Broker(beside[1], directory, secured, rights_of(entitled))
        server.start()
    service = EnrolmentService(found, book, clock, broker=url, days=days)
    try:
        if server is not None:
            await server.wait_ready()
        await service.start(*where)
        console(stderr=True).print(f"enrolment on https://{where[0]}:{service.port}")
        await _follow(book, server, entitled, stop)
    finally:
        await service.stop()
        if server is not None:
            server.stop()


async def _follow(
    book: Book, server: Broker | None, entitled: frozenset[Entitled], stop: asyncio.Event
) -> None:
    """Until `stop`: the broker's rights follow the book."""
    from cloud.broker import BrokerError
    from cloud.enrol_book import BookError
    from cloud.rights import rights_of

    fault = ""
    while not stop.is_set():
        try:
            async with asyncio.timeout(RIGHTS_PERIOD_S):
                await stop.wait()
        except TimeoutError:
            pass
        if server is None or stop.is_set():
            continue
        if not server.running:
            raise BrokerError(f"the broker ended; its log is {server.log_file}")
        try:
            now = await asyncio.to_thread(book.entitled, SystemClock().utc_ns())
            if now != entitled:
                server.allow(rights_of(now))
                entitled = now
        except (BookError, BrokerError) as error:  # a full disk, say: whoever has rights keeps them
            if str(error) != fault:
                console(stderr=True).print(f"rights on the broker are those of before: {error}")
            fault = str(error)
        else:
            fault = ""


@app.command()
def service(
    folder: AuthorityArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the service: ingest.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="New file, key and all.")],
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, help="Life of a certificate.")
    ] = 365,
) -> None:
    """Make key and certificate of a service that speaks with every site, such as the ingest."""
    from cloud.authority import SERVICE, new_client
    from gateway.core.files import create_file
    from sync.enrolment import read_certificate

    found, book = _opened(folder)
    now_ns = SystemClock().utc_ns()
    turn = _tried(lambda: book.turn(_checked_name(name)))
    pem = new_client(found, name, SERVICE, now_ns, days, turn)
    try:
        create_file(out, pem, 0o600)
    except OSError as error:
        raise CommandFailed(f"{out}: {error.strerror}") from None
    _tried(lambda: book.note(read_certificate(pem), name, SERVICE, now_ns))
    console().print(f"{out}: key and certificate of the service {name}")


@app.command("list")
def list_(folder: AuthorityArgument, json: JsonOption = False) -> None:
    """List the certificates that were issued."""
    from dataclasses import asdict

    _, book = _opened(folder)
    entries = _tried(book.entries)
    if json:
        print_json([asdict(entry) for entry in entries])
        return
    shown = table("NAME", "ROLE", "ISSUED", "ENDS", "STATE")
    now_ns = SystemClock().utc_ns()
    for entry in entries:
        state = "revoked" if entry.revoked_ns else "over" if entry.ends_ns <= now_ns else "counts"
        times = (iso_utc(ns)[:19] + "Z" for ns in (entry.issued_ns, entry.ends_ns))
        shown.add_row(entry.name, entry.role, *times, state)
    console().print(shown)


@app.command()
def revoke(folder: AuthorityArgument, name: NameArgument) -> None:
    """Take a gateway's or service's rights back: certificates, and tokens not yet used."""
    _, book = _opened(folder)
    count = _tried(lambda: book.revoke(name, SystemClock().utc_ns()))
    console().print(f"{name}: {count} certificates revoked")
    if not count:
        raise typer.Exit(EXIT_BAD)


# ---------------------------------------------------------------- on a gateway


@app.command()
def join(
    site: SiteArgument,
    token_file: Annotated[
        Path, typer.Option("--token-file", metavar="FILE", help="The token; - = standard input.")
    ],
    write: Annotated[
        bool, typer.Option("--write", help="Set the keys in the site's link.json.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Get this gateway's certificate with a one-time token; its key never leaves the machine."""
    from sync.enrol_client import join
    from sync.enrolment import EnrolmentError, Identity, Token

    link_name = _link_name(site)
    identity = Identity(state_of(site, state).tls)
    try:
        found = Token.read(_token_text(token_file))
        if found.site != link_name:
            raise CommandFailed(
                f"the token is for the site {found.site}, this one is {link_name} in topics "
                "(key Site in link.json)"
            )
        broker = asyncio.run(join(found, identity))
    except EnrolmentError as error:
        raise CommandFailed(str(error), EXIT_BAD) from None
    keys = {
        "URL": broker,
        "AuthorityFile": str(identity.authority),
        "CertificateFile": str(identity.pair),
        "KeyFile": str(identity.pair),
    }
    console().print(f"{identity.pair}: key and certificate of {link_name}")
    if write:
        _write_link(site / "link.json", keys)
        console().print(f"{site / 'link.json'}: set; restart the gateway")
    else:
        console().print("link.json, by hand or with --write:")
        print_json({"Broker": keys})


def _link_name(site: Path) -> str:
    from config.load import require_site

    return require_site(need_folder(site)).name


def _token_text(path: Path) -> str:
    import sys

    from sync.enrolment import TOKEN_CHARS_MAX

    try:
        if str(path) == "-":
            return sys.stdin.read(TOKEN_CHARS_MAX + 2)
        with path.open(encoding="utf-8") as file:
            return file.read(TOKEN_CHARS_MAX + 2)
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandFailed(f"{path}: no text") from None


def _write_link(path: Path, keys: Mapping[str, str]) -> None:
    """Set keys of `Broker`; everything else in the file stays."""
    from gateway.core.files import replace_file

    try:
        text = path.read_text(encoding="utf-8") if path.exists() else "{}"
        content: dict[str, Any] = json_module.loads(text)
        content["Broker"] = {**content.get("Broker", {}), **keys}
        replace_file(path, json_module.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise CommandFailed(f"{path}: {error}") from None


@app.command()
def renew(
    site: SiteArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Also while more than a third of its life is left.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Renew this gateway's certificate where a third of its life or less is left.

    A gateway that runs does this by itself, once an hour. A session that is up goes on, and the
    next one shows the new certificate: the gateway needs no restart.
    """
    from gateway.renewal import LIFE_LEFT
    from sync.enrol_client import renew
    from sync.enrolment import EnrolmentError, Identity, life_left, read_certificate

    identity = Identity(state_of(site, state).tls)
    try:
        present = read_certificate(identity.pair.read_bytes())
        left = life_left(present, SystemClock().utc_ns())
        if left > LIFE_LEFT and not force:
            ends_ns = round(present.not_valid_after_utc.timestamp()) * 1_000_000_000
            text = duration_text(ends_ns - SystemClock().utc_ns())
            console().print(f"nothing to do: the certificate counts for another {text}")
            return
        asyncio.run(renew(identity))
    except OSError as error:
        text = f"{identity.pair}: {error.strerror}; is this gateway enrolled?"
        raise CommandFailed(text) from None
    except EnrolmentError as error:
        raise CommandFailed(str(error), EXIT_BAD) from None
    console().print(f"{identity.pair}: renewed")
