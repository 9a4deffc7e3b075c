"""The session of the MQTT driver: TLS on a real broker, and a broker that misbehaves."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509

from drivers.contract import Surroundings
from drivers.errors import DriverError, NoAnswer, NotConnected
from drivers.mqtt.driver import MqttDriver
from gateway.core.clock import SystemClock
from tests.certificates import Authority, tls_broker
from tests.drivers.mqtt_case import device
from tests.sync import support

CONNACK: Final = b"\x20\x02\x00\x00"


def open_driver(port: int, **keys: Any) -> MqttDriver:
    channels = keys.pop("channels", None)
    return MqttDriver(device(port, channels, **keys), Surroundings(SystemClock()))


async def follow(driver: MqttDriver) -> NotConnected | None:
    """What ends the updates."""
    try:
        async for _ in driver.updates():
            pass
    except NotConnected as error:
        return error
    return None


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("certificates"), "plant-ca")
    made.issue("broker", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    made.issue("elsewhere", x509.DNSName("broker.example"))
    made.issue("gateway", x509.DNSName("gateway"))
    Authority(made.folder, "stranger")
    return made


def secured(port: int, **files: Path) -> MqttDriver:
    keys: dict[str, Any] = {key: str(file) for key, file in files.items()}
    return open_driver(port, Server=f"mqtts://127.0.0.1:{port}", Timeout=10.0, **keys)


@pytest.mark.parametrize(
    ("shown", "trusted"),
    [("broker", "plant-ca.pem"), ("broker", "plant-ca.der"), ("elsewhere", "elsewhere.pem")],
)
async def test_a_broker_with_tls_is_read_and_written(
    authority: Authority, tmp_path: Path, free_port: Any, shown: str, trusted: str
) -> None:
    """By its authority and its address, or by its very certificate whatever names that bears."""
    async with tls_broker(authority, tmp_path, free_port(), shown) as port:
        reader = secured(port, ServerCertificateFile=authority.folder / trusted)
        writer = open_driver(
            port,
            Server=f"mqtts://127.0.0.1:{port}",
            ServerCertificateFile=str(authority.folder / trusted),
            DataWriteTopic="plant/meter",
            Timeout=10.0,
        )
        try:
            await reader.connect()
            await writer.connect()
            await writer.write(writer_point(writer), 42.0)
            update = await anext(reader.updates())
            assert update.values.tolist() == [42.0]
            big = "x" * 100_000  # more than one record of TLS
            link = writer._link
            assert link is not None
            await link.publish("plant/meter", f'{{"Power": 43, "x": "{big}"}}'.encode(), 1)
            update = await anext(reader.updates())
            assert update.values.tolist() == [43.0]
        finally:
            await reader.close()
            await writer.close()


def writer_point(driver: MqttDriver) -> Any:
    (point,) = device(1).points.values()
    return point


@pytest.mark.parametrize(
    ("shown", "files", "reason"),
    [
        ("broker", {}, "not trusted"),
        ("broker", {"ServerCertificateFile": "stranger.pem"}, "not trusted"),
        ("elsewhere", {"ServerCertificateFile": "plant-ca.pem"}, "another host"),
        ("broker", {"ServerCertificateFile": "missing.pem"}, "ServerCertificateFile .*missing.pem"),
        ("broker", {"ServerCertificateFile": "broker-key.pem"}, "ServerCertificateFile"),
        ("broker", {"CertificateFile": "gateway.der", "KeyFile": "gateway-key.pem"}, "PEM"),
        ("broker", {"CertificateFile": "gateway.pem", "KeyFile": "broker-key.pem"}, "KeyFile"),
    ],
)
async def test_a_broker_that_can_not_be_trusted_is_not_connected(
    authority: Authority,
    tmp_path: Path,
    free_port: Any,
    shown: str,
    files: dict[str, str],
    reason: str,
) -> None:
    async with tls_broker(authority, tmp_path, free_port(), shown) as port:
        driver = secured(port, **{key: authority.folder / file for key, file in files.items()})
        with pytest.raises(NotConnected, match=reason):
            await driver.connect()
        await driver.close()


async def test_a_broker_that_asks_for_a_certificate_gets_ours(
    authority: Authority, tmp_path: Path, free_port: Any
) -> None:
    extra = "require_certificate true\nuse_identity_as_username true"
    folder = authority.folder
    async with tls_broker(authority, tmp_path, free_port(), "broker", extra) as port:
        files = {"ServerCertificateFile": authority.file}
        own = {"CertificateFile": folder / "gateway.pem", "KeyFile": folder / "gateway-key.pem"}
        driver = secured(port, **files, **own)
        await driver.connect()
        await driver.close()
        driver = secured(port, **files)
        with pytest.raises(NotConnected, match=r"(?i)certificate.required"):
            await driver.connect()
        await driver.close()


async def test_a_broker_without_tls_is_not_connected(tmp_path: Path, free_port: Any) -> None:
    broker = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    broker.start()
    try:
        await broker.wait_ready()
        driver = secured(broker.port)
        with pytest.raises(NotConnected):
            await driver.connect()
        await driver.close()
    finally:
        broker.kill()


# ---------------------------------------------------------------- a broker that misbehaves


class FakeBroker:
    """Answers every packet of a client by what stands in `answers`, by the packet's type."""

    def __init__(self, **answers: Any) -> None:
        given = {int(kind[1:]): answer for kind, answer in answers.items()}
        self.answers: dict[int, Any] = {1: CONNACK, 8: suback(1), 12: b"\xd0\x00"} | given
        self.got: list[int] = []
        self.clients: set[str] = set()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeBroker]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readexactly(2)
                body = await reader.readexactly(head[1])
                kind = head[0] >> 4
                self.got.append(kind)
                if kind == 1:
                    self.clients.add(body[12 : 12 + body[11]].decode())
                answer = self.answers.get(kind, b"")
                if answer is None:
                    break
                writer.write(answer(body) if callable(answer) else answer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def suback(code: int) -> Any:
    return lambda body: b"\x90\x03" + body[:2] + bytes([code])


def message(topic: bytes, payload: bytes) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + payload
    return b"\x30" + bytes([len(body)]) + body


async def test_a_forbidden_subscription_is_not_connected() -> None:
    async with FakeBroker(_8=suback(0x80)).running() as broker:
        driver = open_driver(broker.port)
        with pytest.raises(NotConnected, match="forbids the subscription of plant/meter"):
            await driver.connect()


async def test_two_instruments_have_names_of_their_own() -> None:
    """A broker ends the older session of two with one name, and both would fight for ever."""
    async with FakeBroker().running() as broker:
        drivers = [open_driver(broker.port) for _ in range(20)]
        await asyncio.gather(*(driver.connect() for driver in drivers))
        assert len(broker.clients) == 20
        assert all(8 <= len(name) <= 23 for name in broker.clients)
        await asyncio.gather(*(driver.close() for driver in drivers))


async def test_an_instrument_that_is_only_written_connects() -> None:
    async with FakeBroker(_3=lambda body: b"\x40\x02" + body[17:19]).running() as broker:
        driver = open_driver(broker.port, channels={"Power": {"ReadWrite": "W"}})
        await driver.connect()
        await driver.write(writer_point(driver), 1.0)
        assert 8 not in broker.got
        await driver.close()


async def test_a_command_that_is_not_confirmed_has_no_answer() -> None:
    async with FakeBroker().running() as broker:
        driver = open_driver(broker.port, Timeout=0.2)
        await driver.connect()
        with pytest.raises(NoAnswer, match=r"publication within 0\.2 s"):
            await driver.write(writer_point(driver), 1.0)
        await driver.close()


async def test_the_end_of_the_session_ends_a_command_that_waits() -> None:
    async with FakeBroker(_3=None).running() as broker:
        driver = open_driver(broker.port, Timeout=60.0)
        await driver.connect()
        following = asyncio.create_task(follow(driver))
        with pytest.raises(NotConnected):
            await driver.write(writer_point(driver), 1.0)
        assert await following is not None
        await driver.close()


async def test_a_broker_that_hangs_up_at_the_login_is_not_waited_for() -> None:
    async with FakeBroker(_1=None).running() as broker:
        driver = open_driver(broker.port, Timeout=60.0)
        with pytest.raises(NotConnected, match="without an answer"):
            await driver.connect()


async def test_a_connection_takes_no_longer_than_its_timeout() -> None:
    """TCP, login, subscription: not each of them for as long."""
    loop = asyncio.get_running_loop()
    async with FakeBroker(_8=b"").running() as broker:
        driver = open_driver(broker.port, Timeout=0.3)
        before = loop.time()
        with pytest.raises(NotConnected, match=r"within 0\.3 s|no answer"):
            await driver.connect()
        assert driver._link is None
        assert before < loop.time()


@pytest.mark.parametrize(
    "packet",
    [
        message(b"\xff\xfe", b"1"),
        message(b"a/#", b"1"),
        message(b"", b"1"),
        message(b"plant/\x00meter", b"1"),
        b"\x30\x01\x00",
        b"\x30\x03\x00\x09a",
        b"\x32\x05\x00\x01a\x00\x00",
        b"\x36\x02\x00\x00",
        b"\x40\x02\x00\x09",
        b"\x90\x03\x00\x09\x00",
        b"\x90\x00",
        b"\xb0\x02\x00\x09",
        b"\x20\x02\x00\x05",
        b"\x00\x00",
        b"\xf0\x00",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x30\xff\xff\xff\x7f",
    ],
    ids=repr,
)
async def test_packets_that_make_no_sense_end_typed(packet: bytes) -> None:
    async with FakeBroker(_8=lambda body: suback(1)(body) + packet + b"\xd0\x00").running() as it:
        driver = open_driver(it.port, Timeout=0.5)
        try:
            await driver.connect()
            async with asyncio.timeout(0.05):
                await follow(driver)
        except (TimeoutError, DriverError):
            pass
        await driver.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await support.eventually(lambda: all(task.done() for task in others))


@pytest.mark.parametrize("seed", range(8))
async def test_random_packets_end_typed(seed: int) -> None:
    chance = random.Random(seed)

    def nonsense(body: bytes) -> bytes:
        kind = bytes([chance.randrange(256), chance.randrange(16)])
        return suback(1)(body) + kind + chance.randbytes(chance.randrange(40))

    connack: Any = CONNACK if seed % 2 else CONNACK[:2] + bytes([0, chance.randrange(8)])
    async with FakeBroker(_1=connack, _8=nonsense).running() as broker:
        for _ in range(5):
            driver = open_driver(broker.port, Timeout=0.3)
            try:
                await driver.connect()
                async with asyncio.timeout(0.02):
                    await follow(driver)
                await driver.write(writer_point(driver), 1.0)
            except (TimeoutError, DriverError):
                pass
            await driver.close()
