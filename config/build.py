"""From declared files to points: every default that an engineer need not write."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from config.findings import Finding
from config.model import Channel, InstrumentFile, SamplingEntry, ScanEntry
from config.points import (
    BRIDGE_CHANNEL,
    BUS_CHANNEL,
    GATEWAY_EQUIPMENT,
    GATEWAY_POINTS,
    LINK_POINTS,
    NO_POINT,
    RULE_EQUIPMENT,
    PointDef,
    PointKind,
    of_link,
    rule_channel,
)
from config.site import Instrument, Personality, ScanClass
from config.units import ENERGY, UNITS

NS_PER_S: Final = 1_000_000_000
AGE_PERIODS: Final = 3  # a point may miss two polls before it is too old
FLOAT32_RELATIVE: Final = 1e-6  # a float32 that went to a device and back differs by less

_NAMED_MAX: Final = 6  # channels that one finding names

_NO_UNITS: Final = frozenset({"", "na", "n/a", "none", "-"})
_DISCRETE_TYPES: Final = frozenset({"coil", "coils", "discreteinputs", "discreteinput", "digital"})
_INTEGER_TYPES: Final = ("int", "uint", "hex", "nr1")


def seconds_ns(seconds: float) -> int:
    """Seconds to whole nanoseconds."""
    return round(seconds * NS_PER_S)


def period_ns(entry: SamplingEntry | ScanEntry) -> int:
    """The period of a scan class or of the scan, at least 1 ns."""
    number = entry.Rate if isinstance(entry, SamplingEntry) else entry.Period
    return max(1, seconds_ns(number if entry.Unit in ("S", "s") else number / 1000))


def point_kind(channel: Channel) -> PointKind:
    """Discrete for what switches or counts states. A seed's `Type` "Analog" is always analog."""
    form = channel.Type.lower()
    if form == "analog":
        return "analog"
    if channel.States or channel.DataType.lower() in ("bool", "bit") or form in _DISCRETE_TYPES:
        return "discrete"
    return "analog"


def default_tolerance(channel: Channel) -> float:
    """Largest difference between setpoint and read-back that rounding can explain, in units.

    A discrete point must read back exactly. For a number it is half of the last decimal that is
    shown, one count of an integer register, and a millionth of the span for float32.
    """
    if point_kind(channel) == "discrete":
        return 0.0
    half_decimal = 0.0 if channel.Decimal is None else 0.5 * 10.0**-channel.Decimal
    if channel.DataType.lower().startswith(_INTEGER_TYPES):
        return max(abs(channel.Scalar), half_decimal)
    limits = [abs(x) for x in (channel.Minimum, channel.Maximum) if x is not None]
    return half_decimal + FLOAT32_RELATIVE * max([1.0, *limits])


class PointBuilder:
    """Numbers the points of a site, in the order of its files."""

    def __init__(
        self, sampling: Mapping[str, SamplingEntry], classes: Mapping[str, ScanClass]
    ) -> None:
        """`sampling` and `classes` have the same keys; there is at least one."""
        self._by_speed = sorted(classes.values(), key=lambda c: c.period_ns)
        self._filter_keys = {name: entry.FilterKey for name, entry in sampling.items()}
        self.points: list[PointDef] = []
        self._unclassed: dict[tuple[str, tuple[str, ...]], list[str]] = {}

    def instrument(self, file: str, content: InstrumentFile) -> Instrument:
        """The active channels of one instrument as points."""
        tags = content.EquipmentTags
        active = {name: channel for name, channel in content.Channels.items() if channel.Active}
        numbers = {name: len(self.points) + 1 + i for i, name in enumerate(active)}
        made: dict[str, PointDef] = {}
        for name, channel in active.items():
            scan_class = self._scan_class(file, name, channel)
            made[name] = _device_point(
                tags.EquipmentName, name, channel, numbers, scan_class, tags.Timeout
            )
        self.points += made.values()
        periods_ns = {c.name: c.period_ns for c in self._by_speed}
        return Instrument(tags.EquipmentName, file, tags, active, made, periods_ns)

    @property
    def findings(self) -> list[Finding]:
        """Channels without a scan class: one finding for all of a file that have the same tags."""
        slowest = self._by_speed[-1]
        keys = ", ".join(self._filter_keys[c.name] for c in self._by_speed)
        found = []
        for (file, tags), names in self._unclassed.items():
            which = "It has" if len(names) == 1 else f"{len(names)} channels have"
            listed = "" if len(names) == 1 else f" ({', '.join(names[:_NAMED_MAX])}{_more(names)})"
            text = (
                f"{which} no tag of a scan class{listed}, only {', '.join(tags) or 'none'}, so the "
                f"slowest ({slowest.name}) polls. Add one of: {keys}; or name a scan class so."
            )
            found.append(
                Finding(file, f"Channels.{names[0]}.Tags", "scan-class-missing", text, "warning")
            )
        return found

    def gateway(self, links: Iterable[str], bridges: Iterable[str], *, bus: bool) -> None:
        """The gateway's own points, those of each further link and bridge, and of the site bus."""
        own = [*GATEWAY_POINTS]
        for name in links:
            own += [
                (of_link(channel, name), kind, units, False, f"{description}{name}")
                for channel, kind, units, description in LINK_POINTS
            ]
        if bus:
            own.append((BUS_CHANNEL, "discrete", "", False, "1 while the site bus is connected"))
        for name in bridges:
            text = f"1 while both brokers of Bridges.{name} are connected"
            own.append((of_link(BRIDGE_CHANNEL, name), "discrete", "", False, text))
        for channel, kind, units, writable, description in own:
            self.points.append(
                PointDef(
                    index=len(self.points) + 1,
                    tag=f"{GATEWAY_EQUIPMENT}.{channel}",
                    equipment=GATEWAY_EQUIPMENT,
                    channel=channel,
                    kind=kind,
                    source="gateway",
                    units=units,
                    description=description,
                    writable=writable,
                    value_min=0.0 if writable else math.nan,
                    value_max=1.0 if writable else math.nan,
                )
            )

    def rules(self, personality: Personality) -> None:
        """One point an active rule, machine of control states and grid function."""
        self._rules("alarm", ((n, r.Description) for n, r in personality.alarms.items()))
        self._rules("state", ((n, r.Description) for n, r in personality.states.items()))
        self._rules("control", ((n, r.Description) for n, r in personality.controls.items()))
        self._rules("machine", ((n, m.Description) for n, m in personality.machines.items()))
        self._rules("function", ((n, f.Description) for n, f in personality.functions.items()))

    def _rules(self, kind: str, rules: Iterable[tuple[str, str]]) -> None:
        equipment = RULE_EQUIPMENT[kind]
        for name, description in rules:
            channel = rule_channel(name)
            self.points.append(
                PointDef(
                    index=len(self.points) + 1,
                    tag=f"{equipment}.{channel}",
                    equipment=equipment,
                    channel=channel,
                    kind="analog" if kind == "function" else "discrete",
                    source="virtual" if kind == "function" else "rule",
                    description=description,
                    writable=kind == "machine",
                )
            )

    def _scan_class(self, file: str, name: str, channel: Channel) -> ScanClass | None:
        if "R" not in channel.ReadWrite or channel.Expression is not None:
            return None
        for scan_class in self._by_speed:  # where several match, the fastest counts
            if self._filter_keys[scan_class.name] in channel.Tags:
                return scan_class
        self._unclassed.setdefault((file, tuple(channel.Tags)), []).append(name)
        return self._by_speed[-1]


def _device_point(
    equipment: str,
    name: str,
    channel: Channel,
    numbers: Mapping[str, int],
    scan_class: ScanClass | None,
    timeout_s: float,
) -> PointDef:
    readable = "R" in channel.ReadWrite
    writable = "W" in channel.ReadWrite
    age_ns = 0
    if scan_class is not None:
        age_ns = AGE_PERIODS * scan_class.period_ns + seconds_ns(timeout_s)
        if channel.AgeLimit is not None:
            age_ns = seconds_ns(channel.AgeLimit)
    read_back = NO_POINT
    if writable:
        shown_by = channel.ReadBack or (name if readable else "")
        read_back = numbers.get(shown_by, NO_POINT)
    safe = _or_nan(channel.SafeValue)
    tolerance = channel.Tolerance
    return PointDef(
        index=numbers[name],
        tag=f"{equipment}.{name}",
        equipment=equipment,
        channel=name,
        kind=point_kind(channel),
        source="device" if channel.Expression is None else "virtual",
        units="" if channel.Units.lower() in _NO_UNITS else channel.Units,
        description=channel.Description,
        readable=readable,
        writable=writable,
        scan_class="" if scan_class is None else scan_class.name,
        age_ns_max=age_ns,
        deadband=channel.Deadband,
        heartbeat_ns=seconds_ns(channel.Heartbeat),
        value_min=_or_nan(channel.Minimum),
        value_max=_or_nan(channel.Maximum),
        safe_value=safe,
        fallback=safe if channel.Fallback is None else channel.Fallback,
        rate_max_per_s=_or_nan(channel.RateMax),
        ramp_rate_per_s=_or_nan(channel.RampRate),
        lease_ns=0 if channel.Lease is None else seconds_ns(channel.Lease),
        tolerance=default_tolerance(channel) if tolerance is None else tolerance,
        read_back=read_back,
        states=tuple(channel.States),
        counter=_counts(channel) if channel.Counter is None else channel.Counter,
    )


def _counts(channel: Channel) -> bool:
    """Energy that is read is a meter's count; torque (Nm) only has its dimension."""
    known = UNITS.get(channel.Units)
    energy = known is not None and known.dimension == ENERGY and channel.Units != "Nm"
    return energy and "W" not in channel.ReadWrite


def _more(names: list[str]) -> str:
    return ", ..." if len(names) > _NAMED_MAX else ""


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number
