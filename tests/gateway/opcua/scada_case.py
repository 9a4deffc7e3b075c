"""A whole gateway for control rooms: a real device, field and link, users and certificates."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from asyncua import Client, ua

from config.load import require_site
from gateway.core.clock import SystemClock
from gateway.history import places
from gateway.link import Link
from gateway.opcua.model import model_of
from gateway.opcua.names import own_id
from sync.store.async_store import AsyncStore
from tests.gateway.opcua import secure_case
from tests.gateway.opcua.security_case import Holder, holder
from tests.gateway.running import Running
from tests.gateway.sites import ALARMS, CONTROLS, Rig, eventually
from tests.gateway.test_link import QUOTA_BYTES, LinkRunning

RULES: dict[str, Any] = {
    "Automatic_Controls": {
        **CONTROLS["Automatic_Controls"],
        "Control/OverTemp": {
            "When": "Rig.Temperature >= 900",
            "Method": "Close",
            "BypassMax": 3600,
            "Latch": True,
        },
    },
    "Control_Methods": CONTROLS["Control_Methods"],
    "Control_States": {
        "Plant": {
            "Initial": "Off",
            "States": {"Off": {}, "Warm": {}, "Run": {}},
            "Transitions": [
                {"From": "Off", "To": "Warm", "By": ["operator"]},
                {"From": "Warm", "To": "Run", "When": "Rig.Temperature > 500", "By": ["operator"]},
                {"To": "Off", "By": ["operator"]},
            ],
        }
    },
}
HOT = {"When": "Rig.Temperature >= 800 hysteresis 10", "Level": "High", "ShelveMax": 3600}
LINK: dict[str, Any] = {
    "Broker": {"URL": "mqtt://127.0.0.1:1"},
    "Store": {"FrameInterval": 0.1},
}
OPCUA: dict[str, Any] = {
    "Endpoint": "opc.tcp://127.0.0.1:0/gatepost",
    "Rights": [{"Points": ["Rig.Valve"], "Write": "engineer"}],
    "Lease": 600,
}


class WithHistory(LinkRunning):
    """A link process as gateway.link.run makes it, with history."""

    async def start(self) -> None:
        self.paths.make()
        site = require_site(self.rig.folder)
        self.store = await AsyncStore.open(
            self.paths.store, quota_bytes=QUOTA_BYTES, links=places(site.link)
        )
        self.link = Link(site, self.paths, self.store, SystemClock(), model=model_of(site))
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.link.run(self._stop))


class Gateway:
    """A gateway on the test's loop. `field` may be ended and started anew."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.scada = holder("scada")
        self.field: Running
        self.link: WithHistory
        self._stack = AsyncExitStack()

    async def start(self, *trusted: Holder, **opcua: Any) -> None:
        """Start everything; returns when the OPC UA server listens and has values."""
        await self.rig.start()
        self.rig.write(link={**LINK, "OpcUa": {**OPCUA, **opcua}})
        alarms = {"AlarmStates": {**ALARMS["AlarmStates"], "Alarms/Hot": HOT}}
        for name, content in (("Controls.json", RULES), ("Alarms.json", alarms)):
            (self.rig.folder / name).write_text(json.dumps(content), encoding="utf-8")
        self.rig.state.mkdir(parents=True, exist_ok=True)
        secure_case.prepared(self.rig.state, self.scada, *trusted)
        await self.start_field()
        self.link = WithHistory(self.rig)
        await self.link.start()
        await eventually(lambda: self.url, 30)

    async def start_field(self) -> None:
        self.field = Running(self.rig)
        await self.field.ready()

    @property
    def url(self) -> str:
        """The server's address; "" until it listens."""
        return str(self.link.link._mirror.status()["opcua"])

    async def client(self, user: str) -> Client:
        """A connected client with SignAndEncrypt; it is disconnected at the end."""
        made = await secure_case.client(self.url, self.scada, user)
        await made.connect()
        self._stack.push_async_callback(made.disconnect)
        return made

    def receipts(self, tag: str, source: str = "opcua:") -> list[dict[str, Any]]:
        """Receipts of commands on a point that came over OPC UA, and of what followed them."""
        found = self.field.events("receipt", tag=tag)
        own = {r["command"] for r in found if str(r.get("source", "")).startswith(source)}
        return [r for r in found if r.get("command") in own]

    def steps(self, tag: str) -> list[str]:
        return [str(receipt["step"]) for receipt in self.receipts(tag)]

    async def end(self) -> None:
        """Clients first, the device last."""
        await self._stack.aclose()
        await self.field.end()
        await self.link.end()
        await self.rig.stop()


async def written(client: Client, tag: str, value: Any, kind: ua.VariantType) -> str:
    """The name of the result of writing a plain value."""
    plain = ua.DataValue(ua.Variant(value, kind))
    write = ua.WriteValue()
    write.NodeId, write.AttributeId = own_id(tag), ua.AttributeIds.Value
    write.Value = plain
    results = await client.uaclient.write(ua.WriteParameters([write]))
    return str(results[0].name)


async def called(client: Client, node: str, name: str, *inputs: ua.Variant) -> tuple[str, Any]:
    """The name of the result of a call, and its first output."""
    call = ua.CallMethodRequest()
    call.ObjectId, call.MethodId = own_id(node), own_id(f"{node}/{name}")
    call.InputArguments = list(inputs)
    (result,) = await client.uaclient.call([call])
    outputs = [variant.Value for variant in result.OutputArguments or []]
    return str(result.StatusCode.name), outputs[0] if outputs else None
