"""``gatepost enrol``: an authority, its service with a broker, a gateway that joins and renews."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloud.broker import BrokerError
from cloud.enrol_book import BookError, Entitled
from cloud.rights import Rights
from gateway.cli import enrol
from sync.errors import LinkAuth, LinkError
from sync.link.mqtt import MqttSession, TlsFiles, parse_url

Gatepost = Callable[..., Any]
FreePort = Callable[[], int]
LAB = Path("config/sites/soec-lab")


class Service:
    """``gatepost enrol serve`` as its own process, with a broker."""

    def __init__(self, folder: Path, port: int, broker_port: int) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.broker = f"mqtts://127.0.0.1:{broker_port}"
        words = ("--listen", f"127.0.0.1:{port}", "--run-broker", f"127.0.0.1:{broker_port}")
        command = [sys.executable, "-c", "from gateway.cli.app import main; main()"]
        self.process = subprocess.Popen(
            [*command, "enrol", "serve", str(folder), "--broker", self.broker, *words],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        assert "enrolment on https" in self.process.stderr.readline()

    def end(self) -> int:
        """Stop in order; nothing stays behind."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()
        assert not psutil.wait_procs(children, timeout=10)[1]
        return status


@pytest.fixture
def authority(gatepost: Gatepost, tmp_path: Path) -> Path:
    """An authority of 127.0.0.1."""
    folder = tmp_path / "authority"
    done = gatepost("enrol", "authority", folder, "--host", "127.0.0.1")
    assert done.status == 0
    return folder


@pytest.fixture
def service(authority: Path, free_port: FreePort) -> Iterator[Service]:
    made = Service(authority, free_port(), free_port())
    try:
        yield made
    finally:
        assert made.end() == 0


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site folder of its own, named `lab` in topics."""
    folder = tmp_path / "site"
    folder.mkdir()
    for file in LAB.glob("*.json"):
        if file.name != "link.json":
            (folder / file.name).write_bytes(file.read_bytes())
    link = {"Site": "lab", "Store": {"FrameInterval": 0.7}}
    (folder / "link.json").write_text(json.dumps(link), encoding="utf-8")
    return folder


def token(gatepost: Gatepost, authority: Path, folder: Path, url: str, name: str = "lab") -> Path:
    done = gatepost("enrol", "token", authority, name, "--url", url, "--for", "10min")
    assert done.status == 0
    path = folder / f"{name}.token"
    path.write_text(done.out, encoding="utf-8")
    return path


def session(folder: Path, url: str) -> MqttSession:
    """A session with the files that link.json names."""
    broker = json.loads((folder / "link.json").read_text(encoding="utf-8"))["Broker"]
    assert broker["URL"] == url
    files = TlsFiles(broker["AuthorityFile"], broker["CertificateFile"], broker["KeyFile"])
    return MqttSession(parse_url(url, None, files), client_id="gatepost-lab", timeout_s=2.0)


async def speaks(folder: Path, url: str) -> None:
    """Until the broker lets this gateway listen to its commands; others' it never does."""
    deadline = time.monotonic() + 20
    while True:
        try:
            async with session(folder, url) as gateway:
                await gateway.subscribe(["gatepost/lab/commands"])
                with pytest.raises(LinkAuth):
                    await gateway.subscribe(["gatepost/park/commands"])
                return
        except LinkError:
            assert time.monotonic() < deadline, "the broker never let it in"
            await asyncio.sleep(0.2)


def test_from_an_authority_to_a_gateway_on_the_broker_and_out_again(
    gatepost: Gatepost, authority: Path, service: Service, site: Path, tmp_path: Path
) -> None:
    state = ("--state", tmp_path / "state")
    word = token(gatepost, authority, tmp_path, service.url)
    done = gatepost("enrol", "join", site, "--token-file", word, "--write", *state)
    assert done.status == 0, done.err
    link = json.loads((site / "link.json").read_text(encoding="utf-8"))
    assert link["Store"] == {"FrameInterval": 0.7}  # the rest of the file stays
    assert link["Broker"]["CertificateFile"] == str(tmp_path / "state" / "tls" / "gateway.pem")
    assert gatepost("check", site).out.count("link.json") == 0
    asyncio.run(speaks(site, service.broker))

    again = gatepost("enrol", "join", site, "--token-file", word, "--state", tmp_path / "other")
    assert (again.status, again.err) == (
        1, "gatepost: the service refuses: the token was used already: ask for a new one\n",
    )  # fmt: skip
    assert "nothing to do" in gatepost("enrol", "renew", site, *state).out
    assert gatepost("enrol", "renew", site, "--force", *state).status == 0
    asyncio.run(speaks(site, service.broker))
    rows = json.loads(gatepost("enrol", "list", authority, "--json").out)
    assert [(row["name"], row["role"]) for row in rows] == [("lab", "gateway")] * 2

    assert "2 certificates revoked" in gatepost("enrol", "revoke", authority, "lab").out
    refused = gatepost("enrol", "renew", site, "--force", *state)
    assert refused.status == 1
    assert "revoked" in refused.err

    async def shut_out() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                async with session(site, service.broker) as gateway:
                    await gateway.subscribe(["gatepost/lab/commands"])
            except LinkError:
                return
            await asyncio.sleep(0.2)
        pytest.fail("a revoked gateway is still let in")

    asyncio.run(shut_out())
    assert gatepost("enrol", "revoke", authority, "nobody").status == 1
    assert "revoked" in gatepost("enrol", "list", authority).out


def test_a_token_for_another_site_is_not_even_shown(
    gatepost: Gatepost, authority: Path, site: Path, tmp_path: Path
) -> None:
    word = token(gatepost, authority, tmp_path, "https://127.0.0.1:1", "park")
    done = gatepost("enrol", "join", site, "--token-file", word, "--state", tmp_path / "state")
    assert done.status == 2
    assert "the token is for the site park, this one is lab" in done.err


def test_what_can_not_be_done_is_a_message(
    gatepost: Gatepost, authority: Path, site: Path, tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("hello", encoding="utf-8")
    for words, reason in (
        (("join", site, "--token-file", nonsense), "no enrolment token"),
        (("join", site, "--token-file", tmp_path / "none"), "No such file"),
        (("renew", site), "is this gateway enrolled?"),
        (("token", authority, "a/b", "--url", "https://h"), "can't stand in a topic"),
        (("token", authority, "lab", "--url", "http://h"), "no https:// service"),
        (("token", tmp_path, "lab", "--url", "https://h"), "No such file"),
        (("authority", authority, "--host", "h"), "there is an authority already"),
        (("serve", authority, "--broker", "mqtts://h", "--listen", "8884"), "HOST:PORT"),
        (("list", tmp_path / "none"), "no such site folder"),
    ):
        state = ("--state", tmp_path / "state") if words[0] in ("join", "renew") else ()
        done = gatepost("enrol", *words, *state)
        assert done.status in (1, 2), words
        assert reason in done.err, words
        assert done.out == "", words


def test_a_new_server_certificate_is_by_the_same_authority(
    gatepost: Gatepost, authority: Path
) -> None:
    files = [authority / name for name in ("server.pem", "server-key.pem", "authority.pem")]
    before = [file.read_bytes() for file in files]
    done = gatepost("enrol", "server", authority, "--host", "cloud.example", "--host", "10.0.0.1")
    assert done.status == 0
    assert "cloud.example, 10.0.0.1" in done.out
    after = [file.read_bytes() for file in files]
    assert [new == old for new, old in zip(after, before, strict=True)] == [False, False, True]
    context = ssl.create_default_context(cafile=files[2])
    context.load_cert_chain(files[0], files[1])  # a pair
    assert files[1].stat().st_mode & 0o777 == 0o600


def test_a_services_pair_is_private_and_never_overwritten(
    gatepost: Gatepost, authority: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ingest.pem"
    assert gatepost("enrol", "service", authority, "ingest", "--out", out).status == 0
    assert out.stat().st_mode & 0o777 == 0o600
    before = out.read_bytes()
    assert gatepost("enrol", "service", authority, "ingest", "--out", out).status == 2
    assert out.read_bytes() == before
    (row,) = json.loads(gatepost("enrol", "list", authority, "--json").out)
    assert (row["name"], row["role"]) == ("ingest", "service")


class Faulty:
    """A book and a broker that can't be read or written for a while."""

    running = True

    def __init__(self) -> None:
        self.asked = 0
        self.allowed: list[list[Rights]] = []

    def entitled(self, now_ns: int) -> frozenset[Entitled]:
        self.asked += 1
        if self.asked < 3:
            raise BookError("unable to open database file")
        return frozenset([Entitled("lab", "gateway")])

    def allow(self, rights: list[Rights]) -> None:
        if self.asked < 5:
            raise BrokerError("no space left on device")
        self.allowed.append(rights)


async def test_a_book_or_disk_that_fails_for_a_while_ends_neither_service_nor_broker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(enrol, "RIGHTS_PERIOD_S", 0.01)
    both: Any = Faulty()
    stop = asyncio.Event()
    task = asyncio.create_task(enrol._follow(both, both, frozenset(), stop))
    async with asyncio.timeout(10):
        while not both.allowed and not task.done():
            await asyncio.sleep(0.01)
    stop.set()
    await task
    assert [rights.user for rights in both.allowed[0]] == ["CN=lab,OU=gateway"]
    told = capsys.readouterr().err
    assert told.count("unable to open") == 1
    assert told.count("no space left") == 1
    both.running, both.log_file = False, "log"
    with pytest.raises(BrokerError, match="the broker ended"):
        await enrol._follow(both, both, frozenset(), asyncio.Event())
