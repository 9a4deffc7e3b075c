"""``OpcUa`` and ``History`` of link.json: who may see and write what, and how long it is kept."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from config.keys import DelaySeconds, Keys, Seconds

PolicyName = Literal["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]
RoleName = Literal["observer", "operator", "engineer", "administrator"]
POLICIES: Final[tuple[PolicyName, ...]] = get_args(PolicyName)
ROLES: Final[tuple[RoleName, ...]] = get_args(RoleName)  # each may what those before it may


class OpcUaRight(Keys):
    """Which role points ask for; the first entry with a pattern that fits a point counts."""

    Points: Annotated[list[str], Field(min_length=1)]  # tags or patterns of them, e.g. "PSU.*"
    Read: RoleName = "observer"
    Write: RoleName = "operator"  # and what is done with alarms, states and causes


class OpcUaEntry(Keys):
    """The OPC UA server."""

    Active: bool = True
    Endpoint: str = "opc.tcp://127.0.0.1:4840/gatepost"
    Policies: Annotated[list[PolicyName], Field(min_length=1)] = list(POLICIES)
    SignOnly: bool = False  # offers the mode Sign beside SignAndEncrypt
    NoSecurity: bool = False  # offers the policy None too: whoever reaches the port may read all
    Anonymous: bool = False  # a trusted certificate without a user may read what an observer may
    Rights: list[OpcUaRight] = []
    Lease: DelaySeconds = 0.0  # s, how long a written setpoint holds; 0 = until it is given back
    Hosts: list[str] = []  # names and addresses beside the machine's own, for the certificate
    ConnectionsMax: Annotated[int, Field(ge=2, le=200)] = 50


class HistoryEntry(Keys):
    """What HistoryRead gives out: measurements and events, kept behind their acknowledgement."""

    Active: bool | None = None  # default: where OpcUa is active, which gives it out
    QuotaBytes: Annotated[int, Field(ge=1_000_000)] = 500_000_000  # the oldest goes first
    AgeMax: Seconds = 2_592_000.0  # s (30 days)
    Interval: Annotated[float, Field(ge=1, le=3600)] = 60.0  # s, from write to write, or up to ten
