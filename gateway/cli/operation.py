"""Talking to the running gateway as an operator does; used by the demonstration.

Everything goes through the local stream: there is no second way to an output.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from gateway.core.clock import Clock
from gateway.core.records import Command
from gateway.local import LocalClient, LocalError

TRIES_MAX: Final = 5
RETRY_S: Final = 0.5
ANSWER_S: Final = 15.0


class OperationFailed(Exception):
    """The gateway did not do what the demonstration needs; says what and why."""


class Operator:
    """A local operator: reads, waits, commands."""

    def __init__(self, socket: Path, clock: Clock) -> None:
        self._socket = socket
        self._clock = clock

    async def status(self) -> dict[str, Any]:
        """The field's status; raises LocalError where no field process answers."""
        status: dict[str, Any] = (await self._request({"type": "status"}))["status"]
        return status

    async def read(self, *tags: str) -> list[float]:
        """Values of some points; raises LocalError."""
        answer = await self._request({"type": "read", "tags": list(tags)})
        return [float(point["value"]) for point in answer["points"]]

    async def tags(self) -> set[str]:
        """All points that the gateway has; raises LocalError."""
        answer = await self._request({"type": "read", "tags": []})
        return {str(point["tag"]) for point in answer["points"]}

    async def _request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        client = LocalClient(self._socket)
        try:
            async with asyncio.timeout(ANSWER_S):
                await client.connect()
                return await client.request(message)
        except TimeoutError as error:
            raise LocalError("the field process does not answer") from error
        finally:
            await client.close()

    async def set(self, tag: str, value: float) -> None:
        """Command a point until it is done, a few times; raises OperationFailed.

        Latched trips are reset before each further try.
        """
        reason = ""
        for attempt in range(TRIES_MAX):
            if attempt:
                await asyncio.sleep(RETRY_S)
                await self._command("Gateway.Reset", 1.0)
            receipt = await self._command(tag, value)
            if receipt.get("step") not in ("refused", "failed"):
                return
            reason = str(receipt.get("reason", ""))
        raise OperationFailed(f"{tag} = {value:g} was not possible: {reason}")

    async def set_all(self, wanted: Sequence[tuple[str, float]]) -> None:
        """Command several points at the same time."""
        await asyncio.gather(*(self.set(tag, value) for tag, value in wanted))

    async def _command(self, tag: str, value: float) -> Mapping[str, Any]:
        """Submit one command; its last receipt, empty where none came."""
        client = LocalClient(self._socket)
        command = Command(self._clock.new_id(), tag, value, source="demonstration")
        last: Mapping[str, Any] = {}
        try:
            async with asyncio.timeout(ANSWER_S):
                await client.connect()
                async for receipt in client.command(asdict(command)):
                    last = receipt
        except LocalError as error:
            return {"step": "failed", "reason": str(error)}
        except TimeoutError:
            return last or {"step": "failed", "reason": "no receipt came"}
        finally:
            await client.close()
        return last

    async def reset_trips(self, seconds: float) -> None:
        """Reset latched trips until none is active; raises OperationFailed after `seconds`."""
        names = ""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    status = await self.status()
                    active = [rule["name"] for rule in status["rules"] if rule["kind"] == "trip"]
                    if not status["startup"] and not active:
                        return
                    names = ", ".join(active) or "start-up"
                    if not status["startup"]:
                        await self._command("Gateway.Reset", 1.0)
                    await asyncio.sleep(RETRY_S)
        except TimeoutError as error:
            raise OperationFailed(f"these trips can't be reset: {names}") from error

    async def wait_above(self, tag: str, limit: float, seconds: float) -> None:
        """Wait until a point is above a limit; raises OperationFailed after `seconds`."""
        value = 0.0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    (value,) = await self.read(tag)
                    if value > limit:
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise OperationFailed(f"{tag} stays at {value:g}, {limit:g} is needed") from error


# The laboratory's way from stand-by to electrolysis at 30 A, in stages; see docs/demo.md.
STAGES: Final[tuple[tuple[tuple[str, float], ...], ...]] = (
    (
        ("VFD_1.RUN_STOP", 1),
        ("VFD_1.FREQUENCY_SETPT", 50),
        ("Gas.Air_Setpoint", 50),
        ("Gas.Steam_Setpoint", 20),
        ("Stack.Furnace_Setpoint", 800),
        ("Stack.Heater_Enable", 1),
    ),
    (
        ("Stack.Purge_Valve", 0),
        ("Stack.Hydrogen_Valve", 1),
        ("Gas.Hydrogen_Setpoint", 5),
    ),
    (("States.Operation", 3),),  # Running
    (("PSU.Current_Setpoint", 30), ("PSU.Output_State", 1)),
)
STEAM_TAG: Final = "Gas.Steam_Flow"
STEAM_SLPM_MIN: Final = 10.0
STEAM_STAGE: Final = 3  # needs steam: electrolysis begins


async def start_electrolysis(operator: Operator) -> list[str]:
    """Bring the laboratory into operation; points that a site doesn't have are left out.

    Returns the outputs of the laboratory that the site doesn't have: none in the laboratory.
    Raises OperationFailed, or LocalError where the field process goes away.
    """
    await operator.reset_trips(20.0)
    tags = await operator.tags()
    for number, stage in enumerate(STAGES, start=1):
        if number == STEAM_STAGE and STEAM_TAG in tags:
            await operator.wait_above(STEAM_TAG, STEAM_SLPM_MIN, 15.0)
        await operator.set_all([(tag, float(value)) for tag, value in stage if tag in tags])
    return [tag for stage in STAGES for tag, _ in stage if tag not in tags]
