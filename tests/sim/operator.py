"""People and services: they command, repeat themselves, come late, and reset what has latched."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any, Final

from gateway.local import LocalClient, LocalError
from tests.sim.checks import Checks, Order
from tests.sim.processes import SimClock
from tests.sim.trace import Trace

PAUSE_S: Final = (3.0, 25.0)
ALARMS: Final = ("Alarms.Hot", "Alarms.E_Stop")
PATIENCE_S: Final = 12.0


class Operator:
    """Sends commands over the local stream for ever; every setpoint is a number of its own."""

    def __init__(
        self, socket: Path, clock: SimClock, checks: Checks, trace: Trace, seed: int
    ) -> None:
        self._socket = socket
        self._clock = clock
        self._checks = checks
        self._trace = trace
        self._random = Random(f"{seed}:operator")
        self._count = 0

    async def run(self) -> None:
        """Command until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(*PAUSE_S))
            draw = self._random.random()
            if draw < 0.15:
                await self._send("Gateway.Reset", 1.0)
            elif draw < 0.2:
                await self._send("Gateway.E_Stop", float(self._random.random() < 0.5))
            elif draw < 0.4:
                for tag in ALARMS:
                    await self._send(tag, 0.0, action="acknowledge")
            elif draw < 0.43:
                shelved_s = self._random.uniform(20, 120)
                await self._send(self._random.choice(ALARMS), 0.0, shelved_s, action="shelve")
            elif draw < 0.6:
                await self._send("Rig.Valve", 1.0, self._random.uniform(5, 60))
            else:
                lease_s = self._random.uniform(2, 60)
                order = await self._send("Rig.Setpoint", 10 + self._count * 0.5, lease_s)
                if self._random.random() < 0.4:  # the same message comes twice
                    await self._pass_on(order)

    async def _send(
        self, tag: str, value: float, lease_s: float = 0.0, *, action: str = "write"
    ) -> Order:
        self._count += 1
        # Some expire on the way; none carries an expiry that a clock step could contest.
        expired = self._random.random() < 0.25
        now_ns = self._clock.utc_ns()
        order = Order(
            id=f"order-{self._count}",
            tag=tag,
            value=value,
            sent_ns=self._clock.monotonic_ns(),
            expires_ns=now_ns - 1 if expired else 0,
            lease_ns=round(lease_s * 1e9),
            action=action,
        )
        self._checks.orders[order.id] = order
        await self._pass_on(order)
        return order

    async def _pass_on(self, order: Order) -> None:
        command: dict[str, Any] = {
            "id": order.id,
            "tag": order.tag,
            "value": order.value,
            "origin": "operator",
            "lease_ns": order.lease_ns,
            "expires_ns": order.expires_ns,
            "action": order.action,
            "comment": "" if order.action == "write" else "seen",
        }
        client = LocalClient(self._socket)
        steps = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                await client.connect()
                steps += [str(receipt["step"]) async for receipt in client.command(command)]
        except (LocalError, TimeoutError) as error:
            steps.append(type(error).__name__)
        finally:
            await client.close()
        what = f"= {order.value:g}" if order.action == "write" else order.action
        self._trace("operator", f"{order.id} {order.tag} {what}: {', '.join(steps)}")
