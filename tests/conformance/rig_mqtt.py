"""MQTT: a device that publishes JSON, and a Sparkplug B edge node, behind a real broker."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

from config.site import Instrument
from drivers.mqtt.sparkplug import DataType
from drivers.sim.faults import Faults
from drivers.sim.mqtt_device import JsonDevice, MqttDevice, SparkplugNode
from gateway.core.clock import SystemClock
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import instrument
from tests.sync.support import Mosquitto

PERIOD_S: Final = 0.03
UNASKED: Final = "a device behind MQTT is not asked: it sends"
EXEMPT: Final = {
    "test_a_cycle_reads_every_block_once_and_in_order": UNASKED,
    "test_a_write_between_two_parts_goes_ahead_of_what_was_not_sent": UNASKED,
    "test_a_cycle_that_is_left_early_leaves_nothing_behind": UNASKED,
    "test_silence_of_one_block_is_its_part_and_the_others_follow": UNASKED,
    "test_connecting_again_leaves_one_connection": "the sessions are the broker's",
    "test_a_device_that_vanishes_during_the_wait_is_noticed_at_once": UNASKED,
    "test_a_device_that_hangs_up_behind_each_answer_is_reached_again": UNASKED,
    "test_closing_ends_a_read_that_waits": "tests/drivers/test_mqtt.py: nothing is asked here",
    "test_silence_is_no_answer_and_passes": "silence is found by the age limits",
    "test_a_late_answer_never_becomes_the_answer_to_the_next_question": UNASKED,
    "test_an_answer_just_in_time_counts": UNASKED,
    "test_a_cancelled_read_leaves_nothing_behind": UNASKED,
    "test_what_breaks_the_protocol_is_garbled_and_never_a_value": (
        "one device's nonsense is a bad status of its points, the session is the broker's"
    ),
    "test_errors_say_what_happened": "tests/drivers/test_mqtt.py: there is no silence to report",
}


class BrokerAndDevice:
    """See tests.conformance.rigs.Server; the device connects wherever the broker listens."""

    def __init__(self, device: MqttDevice) -> None:
        self.device = device
        self.port = 0
        self.faults = Faults()
        self.folder = Path(tempfile.mkdtemp(prefix="mqtt-rig-"))
        self.broker: Mosquitto | None = None

    @property
    def requests(self) -> int:
        """Commands that came in."""
        return self.device.requests

    async def start(self) -> int:
        """Broker first, then the device."""
        self.port = self.port or free_port()
        self.folder.mkdir(exist_ok=True)
        self.broker = Mosquitto(self.port, self.folder, persistent=False)
        self.broker.start()
        await self.broker.wait_ready()
        self.device.port = self.port
        await self.device.start()
        return self.port

    async def stop(self) -> None:
        """The broker first: that is what a driver notices."""
        if self.broker is not None:
            self.broker.kill()
            await asyncio.sleep(0.02)  # lets the loop see the end of the connections
        self.broker = None
        await self.device.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _MqttRig:
    """What both rigs share."""

    communication: ClassVar[str] = "MQTT"
    exempt: ClassVar[Mapping[str, str]] = EXEMPT
    server: BrokerAndDevice


class MqttRig(_MqttRig):
    """See tests.conformance.rigs.Rig."""

    def __init__(self) -> None:
        self.values = {"First": 0.0, "Second": 0.0, "Out": 0.0}
        self.server = BrokerAndDevice(
            JsonDevice(
                "127.0.0.1",
                0,
                topic="rig/data",
                write_topic="rig/set",
                values=self.values,
                period_s=PERIOD_S,
            )
        )

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        return instrument(
            {"First": {}, "Second": {"IOPoint": "Second"}, "Out": {"ReadWrite": "RW"}},
            Communication="MQTT",
            Server=f"mqtt://127.0.0.1:{port}",
            DataReadTopic="rig/data",
            DataWriteTopic="rig/set",
            Timeout=TIMEOUT_S,
        )

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.values |= {"First": first, "Second": second}

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        return self.values["Out"]


class SparkplugRig(_MqttRig):
    """See tests.conformance.rigs.Rig."""

    def __init__(self) -> None:
        metrics = dict.fromkeys(("In/First", "In/Second", "Out"), (DataType.FLOAT, 0.0))
        self.node = SparkplugNode("127.0.0.1", 0, SystemClock(), metrics=metrics, period_s=PERIOD_S)
        self.server = BrokerAndDevice(self.node)

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        channels = {
            "First": {"IOPoint": "In/First"},
            "Second": {"IOPoint": "In/Second"},
            "Out": {"ReadWrite": "RW"},
        }
        return instrument(
            channels,
            Communication="MQTT",
            Server=f"mqtt://127.0.0.1:{port}",
            DataReadTopic="spBv1.0/Plant/+/Node/Device",
            Payload="SparkplugB",
            Timeout=TIMEOUT_S,
        )

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.node.values |= {"In/First": first, "In/Second": second}

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        value = self.node.values["Out"]
        assert isinstance(value, float)
        return value


RIGS = (MqttRig, SparkplugRig)
