"""The OPC UA client driver on asyncua's server: values, faults, writes, security, discovery."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from asyncua import ua
from asyncua.ua.uaerrors import UaStructParsingError

from config import status
from config.model import InstrumentFile
from drivers.contract import read_block
from drivers.errors import DriverError, Garbled, NotConnected, OutOfRange, Refused
from drivers.opcua.browse import browse_server
from drivers.opcua.client import OpcUaDriver
from drivers.opcua.driver import PROTOCOL
from drivers.sim.opcua_server import NAMESPACE, OpcUaSimulator
from tests.drivers.opcua_case import (
    FLOW,
    NODES,
    SPEED,
    Taken,
    Wire,
    client,
    connected,
    open_driver,
)
from tests.sync import support


@pytest.fixture
async def sim() -> AsyncIterator[OpcUaSimulator]:
    made = OpcUaSimulator(NODES)
    await made.start()
    yield made
    await made.stop()


async def shown(taken: Taken, channel: str, value: float, code: int = 0) -> None:
    await support.eventually(lambda: taken.values.get(channel) == (value, code))


# ---------------------------------------------------------------- values


async def test_values_of_every_kind_come_with_the_servers_status_and_stamp(
    sim: OpcUaSimulator,
) -> None:
    channels = {
        "Flow": FLOW | {"Scalar": 2.0},
        "Count": {"IOPoint": f"nsu={NAMESPACE};s=Pump.Count"},
        "Mode": {"IOPoint": "ns=2;s=Pump.Mode"},
        "Label": {"IOPoint": "ns=2;s=Pump.Label", "States": ["stop", "run"]},
        "Cell": {"IOPoint": "ns=2;s=Cells", "ArrayPos": 2},
        "State": {"IOPoint": "i=2259"},
    }
    async with connected(client(sim.url, channels)) as (_, taken):
        await support.eventually(lambda: len(taken.values) == len(channels))
        assert {name: value for name, (value, code) in taken.values.items() if code == 0} == {
            "Flow": 3.0,
            "Count": 7.0,
            "Mode": 1.0,
            "Label": 1.0,
            "Cell": 3.0,
            "State": 0.0,
        }
        stamp = datetime(2026, 9, 21, 1, 2, 3, 500_000, tzinfo=UTC)
        sim.set("Pump.Flow", 2.0, 0x40930000, stamp)
        await shown(taken, "Flow", 4.0, status.UNCERTAIN_SENSOR_NOT_ACCURATE)
        assert taken.utc_ns["Flow"] == 1_789_952_523_500_000_000


async def test_a_bad_status_and_a_changed_type_are_told_and_pass(sim: OpcUaSimulator) -> None:
    async with connected(client(sim.url, {"Flow": FLOW})) as (_, taken):
        await shown(taken, "Flow", 1.5)
        sim.set("Pump.Flow", None, 0x808C0000)
        await support.eventually(lambda: taken.values["Flow"][1] == status.BAD_SENSOR_FAILURE)
        assert math.isnan(taken.values["Flow"][0])
        sim.set("Pump.Flow", "broken")
        await support.eventually(lambda: taken.values["Flow"][1] == status.BAD_DECODING_ERROR)
        sim.set("Pump.Flow", 5.0)
        await shown(taken, "Flow", 5.0)


async def test_an_unchanged_value_goes_out_again_with_every_keep_alive(
    sim: OpcUaSimulator,
) -> None:
    async with connected(client(sim.url, {"Flow": FLOW})) as (driver, taken):
        await support.eventually(lambda: taken.count["Flow"] >= 5)
        assert driver._classes[0].monitored == [0]
        assert driver._classes[0].read == []


async def test_a_change_that_gets_lost_is_read(sim: OpcUaSimulator) -> None:
    """Keep-alives that follow would say of the old value that it is still so."""
    made = client(sim.url, {"Flow": FLOW})
    async with connected(made) as (driver, taken):
        await support.eventually(lambda: taken.count["Flow"] >= 3)
        assert driver._session is not None
        library = driver._session._client.uaclient.session
        publish, lost = library.publish, []

        async def lossy(acks: list[ua.SubscriptionAcknowledgement]) -> ua.PublishResponse:
            response = await publish(acks)
            if response.Parameters.NotificationMessage.NotificationData and not lost:
                lost.append(response)
                raise UaStructParsingError("an answer that the library can't read")
            return response

        library.publish = lossy  # type: ignore[method-assign]
        count = taken.count["Flow"]
        await support.eventually(lambda: taken.count["Flow"] > count + 1)  # it is in use
        sim.set("Pump.Flow", 9.0)
        await support.eventually(lambda: lost)
        await shown(taken, "Flow", 9.0)
        assert not driver._classes[0].doubtful
        count = taken.count["Flow"]
        await support.eventually(lambda: taken.count["Flow"] > count + 2)
        assert not driver._classes[0].doubtful  # the server's numbers go on as they should


async def test_a_node_that_is_sampled_rarely_is_read(sim: OpcUaSimulator) -> None:
    sim.faults.sampling_ms = 60_000.0
    async with connected(client(sim.url, {"Flow": FLOW})) as (driver, taken):
        await shown(taken, "Flow", 1.5)
        assert driver._classes[0].monitored == []


async def test_a_value_is_written_without_status_and_stamps(sim: OpcUaSimulator) -> None:
    """Many a PLC refuses a write with them (BadWriteNotSupported)."""
    made = client(sim.url, {"Speed": SPEED})
    async with connected(made) as (driver, _):
        assert driver._session is not None
        library = driver._session._client.uaclient.session
        write, sent = library.write, []

        async def seen(parameters: ua.WriteParameters) -> list[ua.StatusCode]:
            sent.append(parameters.NodesToWrite[0].Value)
            return await write(parameters)

        library.write = seen  # type: ignore[method-assign]
        await driver.write(made.points["Speed"], 3.0)
        assert sent[0].StatusCode is None
        assert sent[0].SourceTimestamp is None
        assert sim.get("Pump.Speed") == 3.0


async def test_unknown_nodes_and_namespaces_are_bad_and_harm_nobody(sim: OpcUaSimulator) -> None:
    channels = {
        "Flow": FLOW,
        "Gone": {"IOPoint": "ns=2;s=Nothing"},
        "Foreign": {"IOPoint": "nsu=urn:nobody;s=Pump.Flow"},
    }
    async with connected(client(sim.url, channels)) as (_, taken):
        await support.eventually(lambda: len(taken.values) == 3)
        await shown(taken, "Flow", 1.5)
        for name in ("Gone", "Foreign"):
            assert taken.values[name][1] == 0x80340000
            assert math.isnan(taken.values[name][0])


# ---------------------------------------------------------------- no subscriptions


async def test_a_server_without_subscriptions_is_read(sim: OpcUaSimulator) -> None:
    sim.faults.no_subscriptions = True
    async with connected(client(sim.url, {"Flow": FLOW})) as (driver, taken):
        await shown(taken, "Flow", 1.5)
        assert driver._classes[0].monitored == []
        sim.set("Pump.Flow", 2.5)
        await shown(taken, "Flow", 2.5)


async def test_a_node_that_can_not_be_monitored_is_read(sim: OpcUaSimulator) -> None:
    sim.faults.unmonitored.add("Pump.Count")
    channels = {"Flow": FLOW, "Count": {"IOPoint": "ns=2;s=Pump.Count"}}
    async with connected(client(sim.url, channels)) as (driver, taken):
        await shown(taken, "Count", 7.0)
        await shown(taken, "Flow", 1.5)
        group = driver._classes[0]
        assert (group.monitored, group.read) == ([0], [1])
        sim.set("Pump.Count", 8)
        await shown(taken, "Count", 8.0)


async def test_a_subscription_that_is_silent_for_too_long_is_not_used(
    sim: OpcUaSimulator,
) -> None:
    sim.faults.keep_alive_count = 20
    async with connected(client(sim.url, {"Flow": FLOW})) as (driver, taken):
        await support.eventually(lambda: taken.count["Flow"] >= 3)
        assert driver._classes[0].monitored == []


async def test_one_that_answers_rarely_is_asked_for_a_shorter_interval(
    sim: OpcUaSimulator,
) -> None:
    sim.faults.keep_alive_count = 3
    made = client(sim.url, {"Flow": FLOW})
    made = replace(made, periods_ns={"Fast": 300_000_000})
    async with connected(made) as (driver, taken):
        await support.eventually(lambda: taken.count["Flow"] >= 3)
        (group,) = driver._classes
        assert (group.monitored, group.longest_ns) == ([0], 300_000_000)


@pytest.mark.parametrize("interval_ms", [math.nan, math.inf, -math.inf, -1.0, 1e300])
async def test_an_interval_that_makes_no_sense_is_garbled(
    sim: OpcUaSimulator, interval_ms: float
) -> None:
    sim.faults.interval_ms = interval_ms
    async with connected(client(sim.url, {"Flow": FLOW})) as (_, taken):
        await support.eventually(lambda: taken.ended)
        assert isinstance(taken.ended, Garbled)


async def test_values_are_read_on_demand(sim: OpcUaSimulator) -> None:
    made = client(sim.url, {"Flow": FLOW, "Gone": {"IOPoint": "ns=2;s=No", "Class": "Slow"}})
    driver = open_driver(made)
    await driver.connect()
    try:
        first, second = PROTOCOL.plan(made)
        assert (await read_block(PROTOCOL, driver, first)).tolist() == [1.5]
        with pytest.raises(Refused, match="BadNodeIdUnknown"):
            await read_block(PROTOCOL, driver, second)
    finally:
        await driver.close()


# ---------------------------------------------------------------- writing


async def test_values_are_written_in_the_nodes_own_type(sim: OpcUaSimulator) -> None:
    channels = {
        "Speed": SPEED,
        "Count": {"IOPoint": "ns=2;s=Pump.Count", "ReadWrite": "W", "Scalar": 0.5},
        "Label": {"IOPoint": "ns=2;s=Pump.Label", "ReadWrite": "RW", "States": ["stop", "run"]},
    }
    made = client(sim.url, channels)
    async with connected(made) as (driver, taken):
        await driver.write(made.points["Speed"], 42.5)
        await driver.write(made.points["Count"], -6.0)
        await driver.write(made.points["Label"], 0.0)
        assert (sim.get("Pump.Speed"), sim.get("Pump.Count")) == (42.5, -12)
        assert sim.get("Pump.Label") == "stop"
        await shown(taken, "Speed", 42.5)
        with pytest.raises(OutOfRange):
            await driver.write(made.points["Count"], 32768.0)
        assert sim.writes == 3


async def test_the_servers_refusal_has_its_name(sim: OpcUaSimulator) -> None:
    channels = {
        "Flow": FLOW | {"ReadWrite": "RW"},
        "Gone": {"IOPoint": "ns=2;s=No", "ReadWrite": "W"},
        "Foreign": {"IOPoint": "nsu=urn:nobody;s=No", "ReadWrite": "W"},
    }
    made = client(sim.url, channels)
    async with connected(made) as (driver, _):
        with pytest.raises(Refused, match=r"BadUserAccessDenied|BadNotWritable") as refusal:
            await driver.write(made.points["Flow"], 1.0)
        assert refusal.value.permanent
        with pytest.raises(Refused, match="type"):
            await driver.write(made.points["Gone"], 1.0)
        with pytest.raises(Refused, match="namespace"):
            await driver.write(made.points["Foreign"], 1.0)


# ---------------------------------------------------------------- the session


async def test_a_server_that_goes_is_lost_at_once_and_reached_again(sim: OpcUaSimulator) -> None:
    made = client(sim.url, {"Flow": FLOW, "Speed": SPEED})
    async with connected(made) as (driver, taken):
        await shown(taken, "Flow", 1.5)
        await sim.stop()
        await support.eventually(lambda: taken.ended)
        assert isinstance(taken.ended, NotConnected)
        with pytest.raises(NotConnected):
            await driver.write(made.points["Speed"], 1.0)
        await sim.start()
        sim.set("Pump.Flow", 3.5)
        await driver.connect()
        again = Taken(made)
        async with support.running(again.follow(driver)):
            await shown(again, "Flow", 3.5)


async def test_a_stalled_server_stops_the_values_and_is_lost(sim: OpcUaSimulator) -> None:
    wire = Wire(sim.port)
    port = await wire.start()
    try:
        made = client(f"opc.tcp://127.0.0.1:{port}", {"Flow": FLOW}, Timeout=0.5)
        async with connected(made) as (_, taken):
            await shown(taken, "Flow", 1.5)
            wire.stalled = True
            await asyncio.sleep(0.1)
            count = taken.count["Flow"]
            await support.eventually(lambda: taken.ended)
            assert "stopped answering" in str(taken.ended)
            assert taken.count["Flow"] <= count + 1  # nothing was made up meanwhile
    finally:
        await wire.stop()


async def test_closing_ends_updates_that_wait_and_leaves_no_task(sim: OpcUaSimulator) -> None:
    before = asyncio.all_tasks()
    made = client(sim.url, {"Flow": FLOW})
    driver, taken = open_driver(made), Taken(made)
    await driver.connect()
    following = asyncio.create_task(taken.follow(driver))
    await shown(taken, "Flow", 1.5)
    await driver.close()
    await following
    assert isinstance(taken.ended, NotConnected)
    await support.eventually(lambda: not sim.sessions)
    left = [t for t in asyncio.all_tasks() - before if "asyncua/client" in repr(t)]
    assert left == []


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"ACKF\xff\xff\xff\x7f"]
)
async def test_what_is_no_opcua_server_is_not_connected(answer: bytes) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer * 1000)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    driver = open_driver(client(f"opc.tcp://127.0.0.1:{port}", {"Flow": FLOW}, Timeout=0.3))
    with pytest.raises(NotConnected):
        await driver.connect()
    async with asyncio.timeout(10):
        await ended.wait()  # nothing of the attempt is left
    await driver.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("seed", range(12))
async def test_a_server_that_talks_nonsense_ends_typed(sim: OpcUaSimulator, seed: int) -> None:
    """Bytes of real answers, changed at random: whatever comes of it is a DriverError."""
    chance = random.Random(seed)

    def spoil(data: bytes) -> bytes:
        spoiled = bytearray(data)
        for _ in range(chance.randint(0, 3)):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        return bytes(spoiled)

    wire = Wire(sim.port)
    port = await wire.start()
    made = client(f"opc.tcp://127.0.0.1:{port}", {"Flow": FLOW, "Speed": SPEED}, Timeout=0.2)
    driver = open_driver(made)
    block = PROTOCOL.plan(made)[0]
    try:
        for _ in range(6):
            wire.spoil = spoil if chance.random() < 0.5 else None
            try:
                await driver.connect()
                wire.spoil = spoil
                await read_block(PROTOCOL, driver, block)
                async with asyncio.timeout(0.3):
                    async for _update in driver.updates():
                        pass
            except (DriverError, TimeoutError):
                continue
    finally:
        await driver.close()
        await wire.stop()


async def test_an_announcement_of_gigabytes_ends_the_connection(sim: OpcUaSimulator) -> None:
    wire = Wire(sim.port)
    port = await wire.start()
    made = client(f"opc.tcp://127.0.0.1:{port}", {"Flow": FLOW})
    try:
        async with connected(made) as (_, taken):
            await shown(taken, "Flow", 1.5)
            wire.spoil = lambda data: b"MSGF\xff\xff\xff\x7f" + data[8:] + bytes(100_000)
            await support.eventually(lambda: taken.ended)
            assert "closed the connection" in str(taken.ended)  # by us, without waiting for more
    finally:
        await wire.stop()


async def test_a_port_where_nobody_listens_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = open_driver(client(f"opc.tcp://127.0.0.1:{port}", {"Flow": FLOW}))
    with pytest.raises(NotConnected, match=str(port)):
        await driver.connect()


# ---------------------------------------------------------------- discovery


async def test_a_browsed_server_becomes_an_instrument_that_works(sim: OpcUaSimulator) -> None:
    content = await browse_server(sim.url, "Pump", tags=["Fast"])
    file = InstrumentFile.model_validate(content)
    assert file.EquipmentTags.EquipmentName == "Pump"
    flow = file.Channels["Pump_Flow"]
    assert (flow.Units, flow.Minimum, flow.Maximum) == ("m3/h", 0.0, 10.0)
    assert (flow.DataType, flow.ReadWrite, flow.Tags) == ("float64", "R", ["Fast"])
    assert file.Channels["Pump_Speed"].ReadWrite == "RW"
    assert file.Channels["Pump_Mode"].States == ["off", "on"]
    assert [file.Channels[f"Cells_{n}"].ArrayPos for n in range(3)] == [0, 1, 2]
    assert "Pump_Label" not in file.Channels  # a text without states is no number
    channels = {name: c.model_dump(exclude_unset=True) for name, c in file.Channels.items()}
    async with connected(client(sim.url, channels)) as (_, taken):
        await support.eventually(lambda: len(taken.values) == len(channels))
        assert all(code == 0 for _, code in taken.values.values())


async def test_what_can_not_be_browsed_is_not_connected() -> None:
    with pytest.raises(NotConnected, match=r"opc\.tcp"):
        await browse_server("http://127.0.0.1")
    with pytest.raises(NotConnected):
        await browse_server("opc.tcp://127.0.0.1:1", timeout_s=0.5)


def test_the_library_is_loaded_with_the_first_device_and_not_before() -> None:
    import subprocess
    import sys

    code = "import sys, drivers.registry; sys.exit('asyncua' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_driver_is_a_push_driver() -> None:
    assert PROTOCOL.pushes
    assert callable(OpcUaDriver.updates)
