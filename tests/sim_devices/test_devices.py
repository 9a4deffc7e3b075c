"""The simulated devices as processes, seen by clients that Gatepost did not write."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pyvisa
from pymodbus.client import AsyncModbusTcpClient

SITE = Path("config/sites/soec-lab")
READY_S = 30.0


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def start_ready(*arguments: str) -> asyncio.subprocess.Process:
    process = await start(*arguments)
    assert process.stdout is not None
    async with asyncio.timeout(READY_S):
        line = await process.stdout.readline()
    if not line.startswith(b"ready"):
        assert process.stderr is not None
        pytest.fail(f"{arguments} said {line!r}: {(await process.stderr.read()).decode()}")
    return process


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Exit status and standard error of a process that should end by itself."""
    assert process.stderr is not None
    async with asyncio.timeout(READY_S):
        text = await process.stderr.read()
        return await process.wait(), text.decode()


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


@dataclass
class Lab:
    """A plant and some devices on ports of their own."""

    site: Path
    socket: Path
    ports: dict[str, int]
    processes: list[asyncio.subprocess.Process]

    async def plant(self, request: dict[str, Any]) -> Any:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(json.dumps(request).encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return answer


def copy_site(folder: Path, ports: dict[str, int]) -> Path:
    """The demonstration site with its instruments on other ports."""
    for file in SITE.glob("*.json"):
        content = json.loads(file.read_text())
        name = content.get("EquipmentTags", {}).get("EquipmentName")
        if name in ports:
            content["EquipmentTags"]["PortNum"] = ports[name]
        (folder / file.name).write_text(json.dumps(content))
    return folder


@pytest.fixture
async def lab(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Lab]:
    ports = {name: free_port() for name in ("Stack", "PSU")}
    site = copy_site(tmp_path, ports)
    socket = tmp_path / "plant.sock"
    processes = [await start_ready("drivers.sim.plant_server", str(socket), "--with-parent")]
    try:
        for name in ports:
            command = ("drivers.sim.device", str(site), name, "--plant", str(socket))
            processes += [await start_ready(*command, "--with-parent")]
        yield Lab(site, socket, ports, processes)
    finally:
        for process in reversed(processes):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.communicate()


@contextlib.asynccontextmanager
async def modbus(port: int) -> AsyncIterator[AsyncModbusTcpClient]:
    client = AsyncModbusTcpClient("127.0.0.1", port=port)
    await client.connect()
    try:
        yield client
    finally:
        client.close()


def query(port: int, *messages: str) -> list[str]:
    """Send messages with pyvisa; the answers of those that end in a question mark."""
    manager = pyvisa.ResourceManager("@py")
    with manager.open_resource(f"TCPIP::127.0.0.1::{port}::SOCKET") as supply:
        supply.read_termination = supply.write_termination = "\n"
        answers = []
        for message in messages:
            if message.endswith("?"):
                answers.append(supply.query(message))
            else:
                supply.write(message)
    manager.close()
    return answers


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_independent_clients_run_the_stack_and_the_plant_follows(lab: Lab) -> None:
    async with modbus(lab.ports["Stack"]) as stack:

        async def floats() -> list[float]:
            answer = await stack.read_input_registers(0, count=12, device_id=1)
            kind = stack.DATATYPE.FLOAT32
            return [
                stack.convert_from_registers(answer.registers[i : i + 2], kind)
                for i in range(0, 12, 2)
            ]

        hot = await floats()
        assert all(750.0 < value < 850.0 for value in hot[:3])
        answers = await asyncio.to_thread(
            query, lab.ports["PSU"], "*IDN?", "CURR 30", "OUTP ON", "CURR?", "OUTP?", "SYST:ERR?"
        )
        assert answers[1:] == ["30", "1", '0,"No error"']

        async def current_flows() -> bool:
            return (await floats())[4] == pytest.approx(30.0, abs=0.1)

        await until(current_flows)
        assert (await floats())[3] > hot[3] + 0.1  # the cell's voltage rose with the current

        await stack.write_coil(0, False, device_id=1)

        async def furnace_is_off() -> bool:
            return (await floats())[5] == 0.0

        await until(furnace_is_off)
        assert (await stack.read_coils(0, count=3, device_id=1)).bits[0] is False


async def test_a_scenario_reaches_the_contacts_of_the_device(lab: Lab) -> None:
    assert (await lab.plant({"scenario": "fire", "on": True}))["scenarios"]["fire"] is True
    async with modbus(lab.ports["Stack"]) as stack:

        async def fire() -> bool:
            answer = await stack.read_discrete_inputs(0, count=3, device_id=1)
            return answer.bits[:3] == [False, True, False]

        await until(fire)


async def test_a_device_refuses_what_its_instrument_file_does_not_allow(lab: Lab) -> None:
    async with modbus(lab.ports["Stack"]) as stack:
        kind = stack.DATATYPE.FLOAT32
        beyond = stack.convert_to_registers(2000.0, kind)
        assert (await stack.write_registers(0, beyond, device_id=1)).exception_code == 3
        not_a_number = stack.convert_to_registers(float("nan"), kind)
        assert (await stack.write_registers(0, not_a_number, device_id=1)).exception_code == 3
        assert (await stack.read_input_registers(40, count=2, device_id=1)).exception_code == 2
        assert (await stack.write_coil(9, True, device_id=1)).exception_code == 2
        allowed = stack.convert_to_registers(640.5, kind)
        assert not (await stack.write_registers(0, allowed, device_id=1)).isError()
        answer = await stack.read_holding_registers(0, count=2, device_id=1)
        assert stack.convert_from_registers(answer.registers, kind) == 640.5


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"set": {"x": 1}}', b'{"get": ["x"]}', b'{"set": {"fan_run": "a"}}']
)
async def test_the_plant_answers_a_bad_request_with_an_error_and_serves_on(
    lab: Lab, line: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(lab.socket))
    writer.write(line + b"\n" + b'{"get": ["fan_run"]}\n')
    assert "error" in json.loads(await reader.readline())
    assert json.loads(await reader.readline()) == {"values": {"fan_run": 1.0}}
    writer.close()
    await writer.wait_closed()


async def test_all_simulators_end_quietly_when_their_parent_is_gone(lab: Lab) -> None:
    for process in reversed(lab.processes):
        assert process.stdin is not None
        process.stdin.close()
        assert await ended(process) == (0, "")
    assert not lab.socket.exists()


async def test_a_simulator_ends_quietly_on_sigterm(lab: Lab) -> None:
    device = lab.processes[-1]
    device.send_signal(signal.SIGTERM)
    assert await ended(device) == (0, "")


async def test_a_device_ends_with_a_message_when_its_plant_is_gone(lab: Lab) -> None:
    lab.processes[0].kill()
    status, text = await ended(lab.processes[1])
    assert status == 1
    assert text.startswith("Stack: the plant on ")
    assert "Traceback" not in text


async def test_a_port_in_use_ends_in_a_message(lab: Lab) -> None:
    device = await start("drivers.sim.device", str(lab.site), "Stack", "--plant", str(lab.socket))
    status, text = await ended(device)
    assert status == 1
    assert text.startswith("Stack can't listen: ")
    assert "in use" in text
    assert "Traceback" not in text


async def test_a_device_without_a_plant_ends_in_a_message(tmp_path: Path) -> None:
    device = await start(
        "drivers.sim.device", str(SITE), "PSU", "--plant", str(tmp_path / "none.sock")
    )
    status, text = await ended(device)
    assert (status, text.count("\n")) == (1, 1)
    assert "no plant on" in text


async def test_an_instrument_that_no_site_has_ends_in_a_message(tmp_path: Path) -> None:
    device = await start("drivers.sim.device", str(tmp_path), "PSU", "--plant", "none.sock")
    status, text = await ended(device)
    assert (status, text.count("\n")) == (1, 1)
    assert "lists an equipment PSU" in text
