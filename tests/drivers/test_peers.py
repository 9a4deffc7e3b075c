"""Both sides against programs that we did not write: pymodbus, mbpoll and PyVISA."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
from collections.abc import AsyncIterator
from itertools import product

import pytest
import pyvisa
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.contract import Surroundings, read_block
from drivers.errors import Refused
from drivers.modbus.tcp import PROTOCOL, ModbusDriver, plan, split
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from drivers.sim.scpi_server import ScpiServer
from gateway.core.clock import SystemClock
from tests.drivers.instruments import modbus

# ---------------------------------------------------------------- our client, their server

VALUES = {"float32": 3.25, "int32": -123456.0, "float64": 2.718281828459045, "int16": -77.0}
KINDS = {
    "float32": AsyncModbusTcpClient.DATATYPE.FLOAT32,
    "int32": AsyncModbusTcpClient.DATATYPE.INT32,
    "float64": AsyncModbusTcpClient.DATATYPE.FLOAT64,
    "int16": AsyncModbusTcpClient.DATATYPE.INT16,
}


def their_registers(data_type: str, byte_order: str, word_order: str) -> list[int]:
    """The registers as pymodbus makes them; it swaps words, the bytes are swapped here."""
    words = AsyncModbusTcpClient.convert_to_registers(
        int(VALUES[data_type]) if "int" in data_type else VALUES[data_type],
        KINDS[data_type],
        word_order="big" if word_order == "Big" else "little",
    )
    if byte_order == "Big":
        return words
    return [struct.unpack("<H", struct.pack(">H", word))[0] for word in words]


async def serve_theirs(device: SimDevice, port: int) -> ModbusTcpServer:
    server = ModbusTcpServer([device], address=("127.0.0.1", port))
    await server.serve_forever(background=True)
    return server


@pytest.mark.parametrize("orders", list(product(("Big", "Little"), repeat=2)))
async def test_a_pymodbus_server_is_read_and_written_in_all_orders(orders, free_port) -> None:
    port = free_port()
    data, channels = [], {}
    for i, name in enumerate(VALUES):
        words = their_registers(name, *orders)
        data.append(SimData(10 * i, values=words, datatype=DataType.REGISTERS))
        channels[name] = {"Type": "HRegister", "DataType": name, "IOPoint": 10 * i}
        channels[name] |= {"ReadWrite": "RW"}
    server = await serve_theirs(SimDevice(id=1, simdata=data), port)
    device = modbus(channels, port, ByteOrder=orders[0], WordOrder=orders[1], Timeout=5, GapMax=0)
    driver = ModbusDriver(device, Surroundings(SystemClock()))
    try:
        await driver.connect()
        for factor in (1, 2):
            for block in plan(device):
                (value,) = await read_block(PROTOCOL, driver, block)
                channel = list(device.points)[int(block.index[0]) - 1]
                assert value == factor * VALUES[channel]
                await driver.write(device.points[channel], 2 * VALUES[channel])
    finally:
        await driver.close()
        await server.shutdown()


async def test_a_pymodbus_server_refuses_what_it_does_not_have(free_port) -> None:
    port = free_port()
    data = [
        SimData(0, values=[1, 2], datatype=DataType.REGISTERS),
        SimData(6, values=[7], datatype=DataType.REGISTERS),
    ]
    server = await serve_theirs(SimDevice(id=1, simdata=data), port)
    keys = {"Type": "HRegister", "DataType": "uint16"}
    device = modbus(
        {
            "A": keys | {"IOPoint": 1},
            "B": keys | {"IOPoint": 6},  # the gap between them does not exist over there
            "None": keys | {"IOPoint": 500},
        },
        port,
        Timeout=5,
    )
    driver = ModbusDriver(device, Surroundings(SystemClock()))
    try:
        await driver.connect()
        here, absent = plan(device)
        for refused in (here, absent):
            with pytest.raises(Refused) as refusal:
                await read_block(PROTOCOL, driver, refused)
            assert (refusal.value.code, refusal.value.permanent) == (2, True)
        parts = [await read_block(PROTOCOL, driver, part) for part in split(here)]
        assert [values.tolist() for values in parts] == [[2.0], [7.0]]
    finally:
        await driver.close()
        await server.shutdown()


# ---------------------------------------------------------------- their clients, our servers


@pytest.fixture
async def bank_server() -> AsyncIterator[tuple[RegisterBank, ModbusServer]]:
    bank = RegisterBank()
    server = ModbusServer(bank)
    await server.start()
    try:
        yield bank, server
    finally:
        await server.stop()


async def test_a_pymodbus_client_uses_every_function_of_our_server(bank_server) -> None:
    bank, server = bank_server
    bank.put_float32("inputs", 10, 3.25)
    bank.discretes[[2, 9]] = True
    client = AsyncModbusTcpClient("127.0.0.1", port=server.port, timeout=5)
    assert await client.connect()
    try:
        read = await client.read_input_registers(10, count=2, device_id=1)
        assert client.convert_from_registers(read.registers, KINDS["float32"]) == 3.25
        bits = (await client.read_discrete_inputs(0, count=10, device_id=1)).bits[:10]
        assert [i for i, bit in enumerate(bits) if bit] == [2, 9]
        assert not (await client.write_coil(3, True, device_id=1)).isError()
        assert not (await client.write_coils(4, [True, False, True], device_id=1)).isError()
        coils = (await client.read_coils(3, count=4, device_id=1)).bits[:4]
        assert coils == [True, True, False, True]
        assert not (await client.write_register(0, 0xF00F, device_id=1)).isError()
        assert not (await client.write_registers(1, [1, 2], device_id=1)).isError()
        mask = await client.mask_write_register(
            address=0, and_mask=0xFF0F, or_mask=0x0050, device_id=1
        )
        assert not mask.isError()
        both = await client.readwrite_registers(
            read_address=0, read_count=3, write_address=2, values=[9], device_id=1
        )
        assert both.registers == [0xF05F, 1, 9]
    finally:
        client.close()


async def test_a_pymodbus_client_is_told_each_exception(bank_server) -> None:
    bank, server = bank_server
    bank.allow_only("holding", [(0, 10)])
    server.functions_off = {4}
    client = AsyncModbusTcpClient("127.0.0.1", port=server.port, timeout=5)
    assert await client.connect()
    try:
        answers = [
            await client.read_input_registers(0, count=1, device_id=1),
            await client.read_holding_registers(9, count=2, device_id=1),
            await client.write_register(10, 1, device_id=1),
            await client.read_coils(65535, count=2, device_id=1),
            await client.read_holding_registers(0, count=1, device_id=5),
        ]
        assert [answer.exception_code for answer in answers] == [1, 2, 2, 2, 11]
        server.faults.exception_code = 4
        answer = await client.read_holding_registers(0, count=1, device_id=1)
        assert answer.exception_code == 4
    finally:
        client.close()


@pytest.mark.parametrize(
    "pdu",
    [
        "03 0000 0000",  # no register
        "03 0000 007E",  # 126 registers
        "03 0000",  # half a request
        "01 0000 07D1",  # 2001 bits
        "05 0000 1234",  # neither on nor off
        "0F 0000 0009 01 FF",  # nine bits in one byte
        "10 0000 0002 02 0001",  # two registers in two bytes
        "10 0000 0002 04 0001",  # one of them missing
        "17 0000 0001 0000 0001 04 0001",
    ],
)
async def test_a_request_with_wrong_numbers_is_exception_3(bank_server, pdu: str) -> None:
    _, server = bank_server
    body = b"\x01" + bytes.fromhex(pdu)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(struct.pack(">HHH", 7, 0, len(body)) + body)
    async with asyncio.timeout(10):
        answer = await reader.readexactly(9)
    writer.close()
    assert answer == bytes((0, 7, 0, 0, 0, 3, 1, body[1] | 0x80, 3))


@pytest.mark.parametrize("header", ["0001 0001 0006 01", "0001 0000 0001 01", "0001 0000 0100 01"])
async def test_what_is_no_modbus_is_disconnected(bank_server, header: str) -> None:
    _, server = bank_server
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(bytes.fromhex(header))
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):  # a reset is as good an end as an orderly one
            assert await reader.read() == b""
    writer.close()


async def mbpoll(port: int, *arguments: str) -> str:
    """mbpoll's standard output; -0 counts addresses from 0, -1 polls once, -o is its timeout."""
    program = shutil.which("mbpoll")
    if program is None:
        pytest.fail("mbpoll is not installed: run tools/system-packages, or apt install mbpoll")
    process = await asyncio.create_subprocess_exec(
        *(program, "-0", "-1", "-o", "5", "-p", str(port), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_mbpoll_reads_and_writes_our_server(bank_server) -> None:
    bank, server = bank_server
    bank.holding[100:103] = (11, 22, 33)
    bank.put_float32("inputs", 200, -12.5)
    bank.discretes[7] = True
    shown = (await mbpoll(server.port, "-r", "100", "-c", "3", "127.0.0.1")).split()
    assert {"11", "22", "33"} <= set(shown)
    shown = (await mbpoll(server.port, "-t", "3:float", "-B", "-r", "200", "127.0.0.1")).split()
    assert "-12.5" in shown
    shown = (await mbpoll(server.port, "-t", "1", "-r", "7", "127.0.0.1")).split()
    assert shown[shown.index("[7]:") + 1] == "1"
    await mbpoll(server.port, "-t", "0", "-r", "5", "127.0.0.1", "1")
    await mbpoll(server.port, "-t", "4", "-r", "300", "127.0.0.1", "7", "8")
    assert bool(bank.coils[5])
    assert [int(x) for x in bank.holding[300:302]] == [7, 8]


async def test_pyvisa_talks_to_our_instrument() -> None:
    volts = {"value": 0.0}

    def handle(message: str) -> str | None:
        header, _, argument = message.partition(" ")
        if header == "VOLT" and argument:
            volts["value"] = float(argument)
        return {"*IDN?": "Gatepost,Simulator,0,1", "VOLT?": f"{volts['value']:.3f}"}.get(header)

    server = ScpiServer(handle)
    port = await server.start()

    def talk() -> tuple[str, str]:
        manager = pyvisa.ResourceManager("@py")
        try:
            instrument = manager.open_resource(
                f"TCPIP::127.0.0.1::{port}::SOCKET", read_termination="\n", write_termination="\n"
            )
            instrument.timeout = 5000
            identity = instrument.query("*IDN?")
            instrument.write("VOLT 12.5")
            joined = instrument.query("VOLT?;*IDN?")
            instrument.close()
            return identity, joined
        finally:
            manager.close()

    try:
        identity, joined = await asyncio.to_thread(talk)
    finally:
        await server.stop()
    assert identity == "Gatepost,Simulator,0,1"
    assert joined == "12.500;Gatepost,Simulator,0,1"
