"""Who sends schedules: a service with signed messages, people at the site, an enemy who repeats."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

from cloud.commands import CommandClient, Message, Signer
from gateway.core.schedule import KINDS, pack_schedule, schedule_of
from gateway.local import LocalClient, LocalError
from sync import topics
from sync.errors import LinkError
from sync.link.mqtt import parse_url
from sync.remote.signed import SCHEDULE
from tests.sim.check_schedules import Plan, ScheduleChecks
from tests.sim.market import KEY
from tests.sim.plant import SITE
from tests.sim.processes import BROKER_URL, SimClock
from tests.sim.trace import Trace

HOST: Final = "planner"
TAG: Final = "Rig.Plan"
PAUSE_S: Final = (8.0, 60.0)
WAIT_S: Final = 10.0
LIFE_NS: Final = 300 * 10**9
START_S: Final = (-10.0, 40.0)  # of the first slot, from the issue
SLOT_S: Final = (5.0, 60.0)
SLOTS: Final = (1, 5)
NAMES: Final = ("site", "store")
SENT_MAX: Final = 20  # messages that the enemy has recorded


class Planner:
    """Sends for ever; every slot's value is a number of its own."""

    def __init__(
        self,
        connect: Callable[..., Any],
        socket: Path,
        clocks: tuple[SimClock, SimClock],
        checks: ScheduleChecks,
        trace: Trace,
        seed: int,
    ) -> None:
        """`clocks` are that of the cloud and that of the gateway."""
        self._connect = connect
        self._socket = socket
        self._cloud_clock, self._gateway_clock = clocks
        self._checks = checks
        self._trace = trace
        self._random = Random(f"{seed}:planner")
        self._address = parse_url(BROKER_URL)
        self._count = 0
        self._sent: deque[bytes] = deque(maxlen=SENT_MAX)

    async def run(self, *, at_site: bool) -> None:
        """Schedule until cancelled, from the cloud or at the site's command line."""
        while True:
            await asyncio.sleep(self._random.uniform(*PAUSE_S))
            try:
                draw = self._random.random()
                if at_site:
                    await self._local()
                elif draw < 0.2 and self._sent:
                    await self._pass_on(self._random.choice(self._sent), "comes again")
                elif draw < 0.3:
                    await self._forge()
                else:
                    await self._signed()
            except (LinkError, LocalError, TimeoutError) as error:
                self._trace("planner", type(error).__name__)

    def _payload(self, now_ns: int) -> dict[str, Any]:
        """Slots one behind the other, with holes; now and then none, which ends a schedule."""
        draw = self._random
        at_ns = now_ns + round(draw.uniform(*START_S) * 1e9)
        slots: list[list[Any]] = []
        for _ in range(draw.randint(*SLOTS)):
            self._count += 1
            slots.append([at_ns, None if draw.random() < 0.2 else 100 + self._count * 0.5])
            at_ns += round(draw.uniform(*SLOT_S) * 1e9)
        return {
            "schedule": draw.choice(NAMES),
            "kind": draw.choice(KINDS),
            "points": {} if draw.random() < 0.1 else {TAG: slots},
            "end_utc_ns": at_ns,
        }

    def _note(self, id_: str, issued_ns: int, name: str, payload: dict[str, Any]) -> Plan:
        slots = tuple((start, value) for start, value in payload["points"].get(TAG, ()))
        end_ns = payload["end_utc_ns"]
        plan = Plan(id_, name, payload["kind"], issued_ns, end_ns, slots)
        self._checks.plans[id_] = plan
        return plan

    async def _local(self) -> None:
        """As ``gatepost schedule send``."""
        now_ns = self._gateway_clock.utc_ns()
        id_, payload = f"plan-{self._random.getrandbits(32):08x}", self._payload(now_ns)
        self._note(id_, now_ns, payload["schedule"], payload)
        packed = pack_schedule(schedule_of(id_, now_ns, "people", payload))
        client = LocalClient(self._socket)
        try:
            async with asyncio.timeout(WAIT_S):
                await client.connect()
                found = [_told(r) async for r in client.schedule(packed)]
        finally:
            await client.close()
        self._trace("planner", f"{id_}: {', '.join(found)}")

    def _message(self, client: CommandClient) -> tuple[Message, Plan]:
        payload = self._payload(self._cloud_clock.utc_ns())
        message = client.message(SITE, SCHEDULE, payload, life_ns=LIFE_NS)
        envelope = message.envelope
        name = f"market/{payload['schedule']}"
        return message, self._note(envelope.id, envelope.time_ns, name, payload)

    def _client(self) -> CommandClient:
        signer = Signer("market", KEY, "plan")
        return CommandClient(self._address, signer, self._cloud_clock, connect=self._connect)

    async def _signed(self) -> None:
        async with self._client() as client:
            message, plan = self._message(client)
            self._sent.append(message.data)
            receipts = client.send(message, wait_s=WAIT_S)
            found = [_told(receipt) async for receipt in receipts]
        self._trace("planner", f"{plan.id[:8]}: {', '.join(found)}")

    async def _forge(self) -> None:
        """A message with a bit changed must do nothing."""
        async with self._client() as client:
            message, plan = self._message(client)
        plan.forged = True
        data = bytearray(message.data)
        data[self._random.randrange(len(data) // 2, len(data))] ^= 1 << self._random.randrange(8)
        await self._pass_on(bytes(data), "is forged")

    async def _pass_on(self, data: bytes, what: str) -> None:
        async with self._connect(self._address, client_id="enemy-of-plans") as session:
            await session.publish(topics.topic(SITE, "schedule"), data)
        self._trace("planner", f"a schedule {what}")


def _told(receipt: dict[str, Any]) -> str:
    """A receipt without the name of the run's own folder."""
    return f"{receipt['step']} {str(receipt['reason']).rpartition(': ')[2]}"
