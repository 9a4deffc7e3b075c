"""``link.json`` as a pydantic model: brokers, store, site bus, bridges, commands, OPC UA."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Protocol

from pydantic import Field

from config.keys import Keys, Seconds
from config.opcua import HistoryEntry, OpcUaEntry

NODE: Final = "gatepost"  # the Sparkplug edge node of a link that names none
CLOUD: Final = "cloud"  # the link that `Broker` describes; no other may have this name
LINKS_MAX: Final = 8


def topic_root(template: str) -> str:
    """The topic below which a JSON link says what is no value; {site} is not filled in yet."""
    fixed = re.split(r"\{(?:equipment|channel)\}", template)[0]
    return fixed.rpartition("/")[0] or "{site}"


class BrokerConnection(Keys):
    """How a broker is reached."""

    URL: str = "mqtt://127.0.0.1:1883"  # mqtts://[user@]host:port, or mqtt:// without TLS
    PasswordFile: str | None = None  # outside the site folder
    AuthorityFile: str | None = None  # who issued the broker's certificate; default the machine's
    CertificateFile: str | None = None  # our own
    KeyFile: str | None = None  # outside the site folder
    KeepAlive: Annotated[int, Field(ge=2, le=600)] = 10  # s


class BrokerEntry(BrokerConnection):
    """The MQTT broker of the cloud, and how it is fed."""

    Active: bool = True
    Ack: Literal["historian", "broker"] = "historian"
    Drain: Literal["oldest", "newest"] = "oldest"  # which end of a backlog goes first
    BytesPerSecondMax: Annotated[int, Field(ge=100)] | None = None  # live and backlog together
    BacklogHours: list[str] = []  # e.g. "22:00-06:00", UTC; when a backlog may go; [] = always


class LinkEntry(BrokerEntry):
    """A further broker that gets what is measured: a customer's, another cloud."""

    Ack: Literal["historian", "broker"] = "broker"
    Format: Literal["gatepost", "json", "opcua", "sparkplug"] = "json"
    Points: list[str] = ["*"]  # tags or patterns of them; not for the format gatepost
    Topic: str = "{site}/{equipment}/{channel}"  # json
    Group: str | None = None  # sparkplug: default the site; opcua: its writers', default gatepost
    Node: str | None = None  # sparkplug; default "gatepost"
    PrimaryHost: str | None = None  # sparkplug: data waits in the store while this host is offline


class StoreEntry(Keys):
    """The store of frames."""

    FrameInterval: Annotated[float, Field(ge=0.001, le=60)] = 0.5  # s, bound of a power cut's loss
    FrameRecordsMax: Annotated[int, Field(ge=1, le=100_000)] = 5000
    QuotaBytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000  # of all files of the store
    AgeMax: Seconds | None = None  # s; older measurements are given up, and declared so
    BacklogRecordsPerSecond: Annotated[int, Field(ge=100)] = 50_000


class SiteBusEntry(BrokerConnection):
    """The seed's site bus: ``Relay/Data``, ``Relay/Request`` and the rest on a broker."""

    Equipment: list[str] = ["*"]  # names or patterns
    Period: Seconds = 1.0  # s, between two messages of an equipment
    Writes: list[str] = []  # tags or patterns that a request on the bus may write
    Lease: Seconds = 60.0  # s, how long such a setpoint holds
    Detail: bool = False  # quality, units and UTC behind the seed's Value and Time
    PoisonPill: bool = False  # a pill ends the service of its equipment on the bus, never more


class BridgeTopic(Keys):
    """A line of a bridge's table: what stands below `From` goes on below `To`."""

    From: str  # a filter, e.g. "platone/dsotp/#"
    To: str = ""  # takes the place of what stands in front of the first wildcard; "" = the same
    Direction: Literal["in", "out"] = "in"  # in: from the remote broker to the local one
    QoS: Literal[0, 1] = 1  # 0: what is on the way may be lost
    Retain: Literal["keep", "always", "never"] = "keep"  # the flag of what goes on


class BridgeEntry(Keys):
    """Messages between two brokers, with other topics (Platone's MQTT bridge)."""

    Local: BrokerConnection
    Remote: BrokerConnection
    Topics: Annotated[list[BridgeTopic], Field(min_length=1)]


class CommandsEntry(Keys):
    """Commands and schedules from outside; whose keys count stands in ``keys.json``."""

    ExpiresMax: Seconds = 3600.0  # s, the longest life of a command from its issue to its expiry
    ScheduleMax: Seconds = 691_200.0  # s, how far ahead a schedule may reach (8 days)


class LinkFile(Keys):
    """``link.json``: what the link process needs. A site without it has these defaults."""

    Site: str | None = None  # name in topics; default SystemName in lower case
    Broker: BrokerEntry = BrokerEntry()
    Links: dict[str, LinkEntry] = {}  # further brokers, each with its own place in the store
    Store: StoreEntry = StoreEntry()
    SiteBus: SiteBusEntry | None = None
    Bridges: dict[str, BridgeEntry] = {}
    Commands: CommandsEntry = CommandsEntry()
    OpcUa: OpcUaEntry = OpcUaEntry()
    History: HistoryEntry = HistoryEntry()

    def links(self) -> dict[str, BrokerEntry]:
        """Every active link by its name, that of `Broker` first."""
        every: dict[str, BrokerEntry] = {CLOUD: self.Broker, **self.Links}
        return {name: entry for name, entry in every.items() if entry.Active}


class WithLink(Protocol):
    """A site, or what is known of one; the checks of a single key need no more."""

    @property
    def link(self) -> LinkFile:
        """Its ``link.json``."""
