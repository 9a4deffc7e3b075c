"""The MQTT driver on real brokers, with mosquitto's own programs as the devices."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from config import status
from config.site import Instrument
from drivers.contract import Surroundings, Update, read_block
from drivers.errors import NotConnected, Refused
from drivers.mqtt import link as mqtt_link
from drivers.mqtt.driver import PROTOCOL, MqttDriver
from drivers.mqtt.sparkplug import DataType
from drivers.sim.mqtt_device import SparkplugNode
from gateway.core.clock import SystemClock
from tests.drivers.mqtt_case import device
from tests.sync import support

FreePort = Callable[[], int]


@pytest.fixture
async def broker(tmp_path: Path, free_port: FreePort) -> AsyncIterator[support.Mosquitto]:
    made = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    made.start()
    try:
        await made.wait_ready()
        yield made
    finally:
        made.kill()


class Taken:
    """What a driver yields, by channel."""

    def __init__(self, made: Instrument) -> None:
        self.names = {point.index: name for name, point in made.points.items()}
        self.values: dict[str, tuple[float, int]] = {}
        self.updates = 0
        self.ended: BaseException | None = None

    def add(self, update: Update) -> None:
        self.updates += 1
        assert update.codes is not None
        for row, value, code in zip(update.index, update.values, update.codes, strict=True):
            self.values[self.names[int(row)]] = (float(value), int(code))

    async def follow(self, driver: MqttDriver) -> None:
        try:
            async for update in driver.updates():
                self.add(update)
        except NotConnected as error:
            self.ended = error


@asynccontextmanager
async def connected(made: Instrument) -> AsyncIterator[tuple[MqttDriver, Taken]]:
    assert PROTOCOL.check(made) == []
    driver = MqttDriver(made, Surroundings(SystemClock()))
    await driver.connect()
    taken = Taken(made)
    async with support.running(taken.follow(driver)):
        try:
            yield driver, taken
        finally:
            await driver.close()


async def publish(port: int, topic: str, payload: bytes, *options: str) -> None:
    """mosquitto_pub as the device."""
    process = await asyncio.create_subprocess_exec(
        *("mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-t", topic, "-s", *options),
        stdin=asyncio.subprocess.PIPE,
    )
    await process.communicate(payload)
    assert process.returncode == 0


@asynccontextmanager
async def subscriber(port: int, topic: str) -> AsyncIterator[asyncio.StreamReader]:
    """mosquitto_sub as the device, ready to be sent to."""
    process = await asyncio.create_subprocess_exec(
        *("mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-t", topic, "-q", "1"),
        *("-F", "%r %q %t %p", "-t", "sync/ready"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready = asyncio.create_task(process.stdout.readline())
        while not ready.done():
            await publish(port, "sync/ready", b"?")
            await asyncio.wait([ready], timeout=0.1)
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def line_of(stream: asyncio.StreamReader, topic: str) -> tuple[str, str]:
    """Retain flag and quality of service, and payload of the next message on a topic."""
    async with asyncio.timeout(10):
        while True:
            retain, qos, where, payload = (await stream.readline()).decode().split(" ", 3)
            if where == topic:
                return f"{retain}{qos}", payload.strip()


# ---------------------------------------------------------------- JSON and plain


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
async def test_values_come_in_and_commands_go_out(
    kind: str, tmp_path: Path, free_port: FreePort
) -> None:
    broker = support.make_broker(kind, free_port(), tmp_path / "broker", persistent=False)
    broker.start()
    try:
        await broker.wait_ready()
        channels = {
            "Power": {"IOPoint": "inverter.ac[0].power", "Scalar": 0.001, "Units": "kW"},
            "Limit": {"ReadWrite": "RW", "DataType": "int16"},
        }
        made = device(broker.port, channels, Timeout=10.0)
        async with connected(made) as (driver, taken), subscriber(broker.port, "#") as stream:
            body = {"inverter": {"ac": [{"power": 1500}]}, "Limit": "40", "other": None}
            await publish(broker.port, "plant/meter", json.dumps(body).encode())
            await support.eventually(lambda: len(taken.values) == 2)
            assert taken.values == {"Power": (1.5, 0), "Limit": (40.0, 0)}
            await driver.write(made.points["Limit"], 55.0)
            flags, payload = await line_of(stream, "plant/meter/set")
            assert json.loads(payload) == {"Limit": 55}
            assert flags == "01"  # not retained: a command must not wait for a device
    finally:
        broker.kill()


async def test_a_partial_document_leaves_the_other_values_alone(
    broker: support.Mosquitto,
) -> None:
    made = device(broker.port, {"A": {}, "B": {}})
    async with connected(made) as (_, taken):
        await publish(broker.port, "plant/meter", b'{"A": 1, "B": 2}')
        await support.eventually(lambda: len(taken.values) == 2)
        taken.values.clear()
        await publish(broker.port, "plant/meter", b'{"B": 3}')
        await support.eventually(lambda: taken.values)
        assert taken.values == {"B": (3.0, 0)}


async def test_a_retained_value_is_uncertain_until_a_live_one_comes(
    broker: support.Mosquitto,
) -> None:
    await publish(broker.port, "plant/meter", b'{"Power": 7}', "-r")
    async with connected(device(broker.port)) as (_, taken):
        await support.eventually(lambda: taken.values)
        assert taken.values["Power"] == (7.0, status.UNCERTAIN_LAST_USABLE)
        await publish(broker.port, "plant/meter", b'{"Power": 8}', "-r")
        await support.eventually(lambda: taken.values["Power"] == (8.0, 0))


async def test_nonsense_is_a_bad_value_and_the_session_goes_on(broker: support.Mosquitto) -> None:
    async with connected(device(broker.port)) as (_, taken):
        for payload in (b"\xff\xfe", b'{"Power": "fast"}', b"[" * 5000):
            taken.values.clear()
            await publish(broker.port, "plant/meter", payload)
            await support.eventually(lambda: taken.values)
            assert taken.values["Power"][1] == status.BAD_DECODING_ERROR
        await publish(broker.port, "plant/meter", b'{"Power": 8}')
        await support.eventually(lambda: taken.values["Power"] == (8.0, 0))


async def test_plain_numbers_have_a_topic_each(broker: support.Mosquitto) -> None:
    channels = {
        "Power": {"IOPoint": "power"},
        "Relay": {"IOPoint": "relay/0", "ReadWrite": "RW", "DataType": "bool"},
    }
    made = device(
        broker.port,
        channels,
        Payload="Plain",
        DataReadTopic="shellies/a/#",
        DataWriteTopic="shellies/cmd/#",
    )
    async with connected(made) as (driver, taken), subscriber(broker.port, "#") as stream:
        await publish(broker.port, "shellies/a/power", b"12.5")
        await publish(broker.port, "shellies/a/relay/0", b"on")
        await support.eventually(lambda: len(taken.values) == 2)
        assert taken.values == {"Power": (12.5, 0), "Relay": (1.0, 0)}
        await driver.write(made.points["Relay"], 0.0)
        assert await line_of(stream, "shellies/cmd/relay/0") == ("01", "false")


async def test_a_wildcard_and_a_path_share_an_io_point(broker: support.Mosquitto) -> None:
    channels = {"East": {"IOPoint": "east:ac.p"}, "West": {"IOPoint": "west:ac.p"}}
    made = device(broker.port, channels, DataReadTopic="pv/+/state")
    async with connected(made) as (_, taken):
        await publish(broker.port, "pv/west/state", b'{"ac": {"p": 2}}')
        await publish(broker.port, "pv/north/state", b'{"ac": {"p": 9}}')
        await publish(broker.port, "pv/east/state", b'{"ac": {"p": 1}}')
        await support.eventually(lambda: len(taken.values) == 2)
        assert taken.values == {"East": (1.0, 0), "West": (2.0, 0)}


async def test_the_seeds_instrument_servers_are_asked_and_read(broker: support.Mosquitto) -> None:
    """They answer requests and send nothing by themselves."""
    made = device(
        broker.port,
        {"Cell_Voltage": {}, "Valve": {"ReadWrite": "W", "DataType": "bool"}},
        EquipmentName="Opto",
        DataReadTopic="Relay/Data/Opto",
        DataWriteTopic="Relay/Request/Opto",
    )
    made = replace(made, periods_ns={"Fast": 100_000_000})
    async with (
        subscriber(broker.port, "Relay/Request/Opto") as stream,
        connected(made) as (driver, taken),
    ):
        for _ in range(2):
            _, payload = await line_of(stream, "Relay/Request/Opto")
            asked = {"Read/Write": "R", "Channels": {"Cell_Voltage": ""}}
            assert json.loads(payload) == asked
        answer = {"Opto": {"Cell_Voltage": {"Value": 0.98, "Time": "2025-10-14 11:51:44"}}}
        await publish(broker.port, "Relay/Data/Opto", json.dumps(answer).encode())
        await support.eventually(lambda: taken.values)
        assert taken.values == {"Cell_Voltage": (0.98, 0)}
        await driver.write(made.points["Valve"], 0.0)
        while (found := json.loads((await line_of(stream, "Relay/Request/Opto"))[1])) == asked:
            pass
        assert found == {"Read/Write": "W", "Channels": {"Valve": False}}


async def test_a_flood_keeps_the_newest_value_and_nothing_else(broker: support.Mosquitto) -> None:
    made = device(broker.port)
    driver = MqttDriver(made, Surroundings(SystemClock()))
    await driver.connect()
    try:
        lines = b"".join(b'{"Power": %d}\n' % number for number in range(3000))
        process = await asyncio.create_subprocess_exec(
            *("mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port)),
            *("-t", "plant/meter", "-l", "-q", "1"),
            stdin=asyncio.subprocess.PIPE,
        )
        await process.communicate(lines)  # nobody fetches meanwhile
        await support.eventually(lambda: driver._inbox._raw[0] == 2999)
        update = await anext(driver.updates())
        assert update.values.tolist() == [2999.0]
        assert driver._inbox.take() is None
    finally:
        await driver.close()


async def test_an_oversized_message_ends_the_session_before_it_is_held(
    broker: support.Mosquitto,
) -> None:
    async with connected(device(broker.port)) as (_, taken):
        await publish(broker.port, "plant/meter", b" " * (mqtt_link.PACKET_BYTES_MAX + 1000))
        await support.eventually(lambda: taken.ended)
        assert f"{mqtt_link.PACKET_BYTES_MAX} are allowed" in str(taken.ended)


async def test_the_tap_sees_both_directions(broker: support.Mosquitto) -> None:
    class Tap:
        def __init__(self) -> None:
            self.frames: list[tuple[bool, bytes, str]] = []

        def frame(self, sent: bool, data: bytes, meaning: str) -> None:
            self.frames.append((sent, data, meaning))

    made, tap = device(broker.port), Tap()
    driver = MqttDriver(made, Surroundings(SystemClock(), tap=tap))
    await driver.connect()
    try:
        await driver.write(made.points["Power"], 5.0)
        await publish(broker.port, "plant/meter", b'{"Power": 1}')
        await support.eventually(lambda: len(tap.frames) == 2)
    finally:
        await driver.close()
    assert tap.frames == [
        (True, b'{"Power": 5.0}', "plant/meter/set"),
        (False, b'{"Power": 1}', "plant/meter"),
    ]


# ---------------------------------------------------------------- the session


async def test_a_lost_broker_ends_the_updates_and_refuses_writes(
    broker: support.Mosquitto,
) -> None:
    made = device(broker.port)
    async with connected(made) as (driver, taken):
        broker.kill()
        await support.eventually(lambda: taken.ended)
        assert str(broker.port) in str(taken.ended)
        with pytest.raises(NotConnected):
            await driver.write(made.points["Power"], 1.0)


async def test_closing_ends_updates_that_wait(broker: support.Mosquitto) -> None:
    async with connected(device(broker.port)) as (driver, taken):
        await asyncio.sleep(0.05)
        await driver.close()
        await support.eventually(lambda: taken.ended)


async def test_a_user_needs_the_right_password(tmp_path: Path, free_port: FreePort) -> None:
    passwords = tmp_path / "passwords"
    process = await asyncio.create_subprocess_exec(
        "mosquitto_passwd", "-b", "-c", str(passwords), "me", "right"
    )
    assert await process.wait() == 0
    extra = f"allow_anonymous false\npassword_file {passwords}"
    broker = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False, extra=extra)
    broker.start()
    file = tmp_path / "secret"
    try:
        await broker.wait_ready()
        url = f"mqtt://me@127.0.0.1:{broker.port}"
        made = device(broker.port, Server=url, PasswordFile=str(file))
        driver = MqttDriver(made, Surroundings(SystemClock()))
        with pytest.raises(NotConnected, match="PasswordFile"):
            await driver.connect()
        file.write_text("wrong")
        with pytest.raises(NotConnected, match="user or password") as refusal:
            await driver.connect()
        assert "wrong" not in str(refusal.value)
        file.write_text("right\n")
        await driver.connect()
        await driver.close()
    finally:
        broker.kill()


async def test_a_cancelled_connection_leaves_nothing(broker: support.Mosquitto) -> None:
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        driver = MqttDriver(device(silent.getsockname()[1]), Surroundings(SystemClock()))
        task = asyncio.create_task(driver.connect())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await support.eventually(lambda: all(t.done() for t in others))


async def test_a_broker_that_does_not_answer_is_not_connected() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        made = device(silent.getsockname()[1], Timeout=0.2)
        driver = MqttDriver(made, Surroundings(SystemClock()))
        with pytest.raises(NotConnected, match=r"within 0\.2 s"):
            await driver.connect()
        await driver.close()


async def test_nobody_can_be_asked(broker: support.Mosquitto) -> None:
    made = device(broker.port)
    async with connected(made) as (driver, _):
        with pytest.raises(Refused, match="sends by itself") as refusal:
            await read_block(PROTOCOL, driver, PROTOCOL.plan(made)[0])
        assert refusal.value.permanent


# ---------------------------------------------------------------- Sparkplug B


def node_case(port: int) -> tuple[SparkplugNode, Instrument]:
    metrics = {
        "Power/Active": (DataType.FLOAT, 1.5),
        "Limit": (DataType.INT16, 40),
        "Mode": (DataType.STRING, "run"),
    }
    node = SparkplugNode("127.0.0.1", port, SystemClock(), metrics=metrics, period_s=0.05)
    channels = {
        "Power": {"IOPoint": "Power/Active"},
        "Limit": {"ReadWrite": "RW"},
        "Mode": {"States": ["stop", "run"]},
    }
    made = device(
        port,
        channels,
        Payload="SparkplugB",
        DataReadTopic="spBv1.0/Plant/+/Node/Device",
        DataWriteTopic=None,
    )
    return node, made


async def test_a_sparkplug_node_is_read_written_and_mourned(broker: support.Mosquitto) -> None:
    node, made = node_case(broker.port)
    await node.start()
    try:
        async with connected(made) as (driver, taken):
            # The node was born before we came: it is asked for another birth.
            await support.eventually(lambda: len(taken.values) == 3)
            assert node.births >= 2
            assert taken.values == {"Power": (1.5, 0), "Limit": (40.0, 0), "Mode": (1.0, 0)}
            await driver.write(made.points["Limit"], -12.0)
            await support.eventually(lambda: taken.values["Limit"] == (-12.0, 0))
            await node.stop()  # disconnects in order: no will, silence
            await node.start()
            await node.send_device_death()
            await support.eventually(lambda: taken.values["Power"][1] == status.BAD_NOT_CONNECTED)
    finally:
        await node.stop()


async def test_values_of_a_node_that_has_nothing_to_report_hold(
    broker: support.Mosquitto,
) -> None:
    node, made = node_case(broker.port)
    await node.start()
    try:
        async with connected(made) as (_, taken):
            await support.eventually(lambda: taken.values.get("Power") == (1.5, 0))
            node.silent = True
            await asyncio.sleep(0.1)
            before = taken.updates
            await support.eventually(lambda: taken.updates > before + 2)
            assert taken.values["Power"] == (1.5, 0)
            await node.send_device_death()
            await support.eventually(lambda: taken.values["Power"][1] == status.BAD_NOT_CONNECTED)
            before = taken.updates
            await asyncio.sleep(0.5)
            assert taken.updates == before
    finally:
        await node.stop()


async def test_the_will_of_a_node_that_vanishes_is_its_death(broker: support.Mosquitto) -> None:
    node, made = node_case(broker.port)
    await node.start()
    try:
        async with connected(made) as (_, taken):
            await support.eventually(lambda: len(taken.values) == 3)
            node.silent = True
            assert node._client is not None
            sock = node._client._client.socket()
            assert isinstance(sock, socket.socket)
            node.port = 1  # it won't come back
            sock.shutdown(socket.SHUT_RDWR)
            await support.eventually(
                lambda: {c for _, c in taken.values.values()} == {status.BAD_NOT_CONNECTED}
            )
    finally:
        await node.stop()


async def test_a_lost_message_leads_to_a_new_birth(
    broker: support.Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivers.mqtt.sparkplug_device.REBIRTH_PAUSE_NS", 100_000_000)
    node, made = node_case(broker.port)
    await node.start()
    try:
        async with connected(made) as (_, taken):
            await support.eventually(lambda: len(taken.values) == 3)
            births = node.births
            node.skip()
            await support.eventually(lambda: node.births > births)
            node.values["Power/Active"] = 9.0
            await support.eventually(lambda: taken.values["Power"] == (9.0, 0))
    finally:
        await node.stop()


async def test_a_command_before_any_birth_is_refused(broker: support.Mosquitto) -> None:
    _, made = node_case(broker.port)
    made = replace(made, tags=made.tags.model_copy(update={"Timeout": 0.2}))
    async with connected(made) as (driver, _):
        with pytest.raises(Refused, match="no birth of Node/Device"):
            await driver.write(made.points["Limit"], 1.0)
