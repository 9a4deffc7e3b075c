"""What polling a site costs, before anything is started: requests, bytes, loads, worst ages.

Pure: it needs the site and the protocols' `plan` and `cost`, and asks nobody.

Load. A serial line is occupied by the bytes of every request and answer, the silences behind them
and the `ReplyDelay` of the device that answers; all instruments on the line add up. On a network
nothing is known of the way, so a device counts as occupied for its `ReplyDelay` a request, and for
that time once where it takes `Depth` requests together.

Worst age. How old the value of a point can be when the next one lands: its period, the exchange
that brings the next one, and whatever can go ahead of that exchange in one cycle and not in the
other: faster scan classes of the device, one batch of a slower class, and on a serial line one
exchange of every other instrument for each exchange of the own. It is a bound, reached where all
of that falls together. Writes, retries and silent devices come on top.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from config.findings import Finding, SiteError
from config.site import Instrument, Site
from drivers.contract import DriverProtocol
from drivers.registry import protocol_of

LOAD_MAX: Final = 1.0  # a plan above it can't be kept
LOAD_TIGHT: Final = 0.8  # above it there is no room for writes and retries
NAMES_MAX: Final = 8  # instruments that a finding names
ROUNDS_MAX: Final = 1000  # of the fixed point; a plan that needs more is as good as overloaded
NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """One request that is asked again and again.

    exchange_s   how long it occupies the device, or the line
    worst_age_s  of its points; None where the plan is overloaded
    """

    label: str
    points: tuple[str, ...]
    request_bytes: int
    answer_bytes: int
    exchange_s: float
    worst_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """One scan class of one device."""

    name: str
    period_s: float
    blocks: tuple[BlockPlan, ...]

    @property
    def requests_per_s(self) -> float:
        """Requests a second."""
        return len(self.blocks) / self.period_s

    @property
    def request_bytes_per_s(self) -> float:
        """Bytes of requests a second."""
        return sum(b.request_bytes for b in self.blocks) / self.period_s

    @property
    def answer_bytes_per_s(self) -> float:
        """Bytes of answers a second."""
        return sum(b.answer_bytes for b in self.blocks) / self.period_s

    @property
    def worst_age_s(self) -> float | None:
        """Of all its points."""
        ages = [b.worst_age_s for b in self.blocks if b.worst_age_s is not None]
        return max(ages) if len(ages) == len(self.blocks) and ages else None


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One instrument.

    line     the serial line that it is on; empty on a network
    depth    exchanges that run together, and questions of a slower class between two looks at a
             faster one
    classes  fastest first; empty where nothing is asked, or where asking has no known cost
    sent     points that the device sends by itself
    unknown  points of a protocol that knows no cost
    """

    name: str
    file: str
    protocol: str
    line: str
    depth: int
    reply_delay_s: float
    classes: tuple[ClassPlan, ...]
    sent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def load(self) -> float:
        """The part of the time that its questions occupy the device, or the line."""
        return sum(_work_s(c.blocks, self.depth) / c.period_s for c in self.classes)


@dataclass(frozen=True, slots=True)
class LinePlan:
    """A serial line and the instruments on it."""

    port: str
    devices: tuple[str, ...]
    load: float


@dataclass(frozen=True, slots=True)
class SitePlan:
    """All devices, and the serial lines that they share."""

    devices: tuple[DevicePlan, ...]
    lines: tuple[LinePlan, ...]


def plan_site(site: Site) -> SitePlan:
    """The plan of all active instruments. Raises SiteError where one can't be planned."""
    return plan_instruments(site.instruments.values(), _periods(site))


def plan_instruments(instruments: Iterable[Instrument], periods_s: Mapping[str, float]) -> SitePlan:
    """`periods_s` has the period of each scan class. Raises SiteError."""
    return _together([d for i in instruments for d in _devices(i, periods_s)])


def check_plan(site: Site) -> list[Finding]:
    """Lines and devices that would have more to do than there is time.

    Instruments that have other errors are left out: they can't be planned.
    """
    devices = []
    for instrument in site.instruments.values():
        with contextlib.suppress(SiteError):
            devices += _devices(instrument, _periods(site))
    plan = _together(devices)
    return overloads(plan) + _too_old(plan, site)


def _together(devices: Sequence[DevicePlan]) -> SitePlan:
    groups: dict[str, list[DevicePlan]] = {}
    for device in devices:
        if device.line:
            groups.setdefault(device.line, []).append(device)
    lines = tuple(
        LinePlan(port, tuple(d.name for d in group), sum(d.load for d in group))
        for port, group in groups.items()
    )
    alone = [[device] for device in devices if not device.line]
    aged = {d.name: d for group in (*groups.values(), *alone) for d in _with_ages(group)}
    return SitePlan(tuple(aged[device.name] for device in devices), lines)


def _too_old(plan: SitePlan, site: Site) -> list[Finding]:
    """Points that would be bad between two polls; of each scan class of a device the worst."""
    limits_s = {point.tag: point.age_ns_max / NS_PER_S for point in site.points}
    findings = []
    for device in plan.devices:
        for scan_class in device.classes:
            late = [
                (limits_s[tag] - block.worst_age_s, tag, block.worst_age_s)
                for block in scan_class.blocks
                if block.worst_age_s is not None
                for tag in block.points
                if 0 < limits_s.get(tag, 0) < block.worst_age_s
            ]
            if late:
                _, tag, age_s = min(late)
                more = f", as {len(late) - 1} more of {scan_class.name} can" if late[1:] else ""
                text = (
                    f"{tag} can be {age_s:.3g} s old before it is read again{more}, and counts as "
                    f"bad after {limits_s[tag]:.3g} s. Raise AgeLimit, or poll it more often."
                )
                key = f"Channels.{tag.removeprefix(f'{device.name}.')}.AgeLimit"
                findings.append(Finding(device.file, key, "plan-age", text, "warning"))
    return findings


def overloads(plan: SitePlan) -> list[Finding]:
    """Findings about lines and devices that are loaded too much."""
    by_name = {device.name: device for device in plan.devices}
    findings = []
    for line in plan.lines:
        users = [by_name[name] for name in line.devices]
        names = [*line.devices[:NAMES_MAX], f"{len(line.devices) - NAMES_MAX} more"]
        shown = line.devices if len(line.devices) <= NAMES_MAX else names
        who = f"The line {line.port} ({', '.join(shown)})"
        remedy = "raise Baudrate, or split the line"
        findings += _overload(users, "EquipmentTags.Connection.Port", line.load, who, remedy)
    for device in plan.devices:
        if not device.line:
            who = f"{device.name}, with a ReplyDelay of {device.reply_delay_s * 1000:g} ms,"
            remedy = "raise BlockMax or GapMax so that fewer requests do, or Depth if it allows it"
            findings += _overload([device], "EquipmentTags.ReplyDelay", device.load, who, remedy)
    return findings


def _overload(
    users: Sequence[DevicePlan], key: str, load: float, who: str, remedy: str
) -> list[Finding]:
    if load <= LOAD_TIGHT:
        return []
    loads = {(d.name, c.name): _work_s(c.blocks, d.depth) / c.period_s for d in users
             for c in d.classes}  # fmt: skip
    (name, scan_class), most = max(loads.items(), key=lambda item: item[1])
    file = next(d.file for d in users if d.name == name)
    rest = (
        f"{scan_class} of {name} takes {most:.0%}: poll it less often, leave channels out, or "
        f"{remedy}."
    )
    if load <= LOAD_MAX:
        text = f"{who} would be busy {load:.0%} of the time, which leaves little for writes and "
        return [Finding(file, key, "plan-tight", f"{text}retries. {rest}", "warning")]
    text = f"{who} would have to be busy {load:.0%} of the time. {rest}"
    return [Finding(file, key, "plan-overload", text)]


# ---------------------------------------------------------------- one device


def _periods(site: Site) -> dict[str, float]:
    return {c.name: c.period_ns / NS_PER_S for c in site.scan_classes.values()}


def _devices(instrument: Instrument, periods_s: Mapping[str, float]) -> list[DevicePlan]:
    """The plan of an instrument; empty where no driver speaks its protocol. Raises SiteError."""
    protocol = protocol_of(instrument.tags.Communication)
    return [] if protocol is None else [_device(instrument, protocol, periods_s)]


def _device(
    instrument: Instrument, protocol: DriverProtocol, periods_s: Mapping[str, float]
) -> DevicePlan:
    tags = {point.index: point.tag for point in instrument.points.values()}
    asked: dict[str, list[BlockPlan]] = {}
    sent: list[str] = []
    unknown: list[str] = []
    # Most drivers have one request in flight, whatever is declared.
    line, depth = "", protocol.depth(instrument)
    for block in protocol.plan(instrument):
        points = tuple(tags[int(index)] for index in block.index)
        if block.pushed:
            sent += points
        elif protocol.cost is None:
            unknown += points
        else:
            cost = protocol.cost(instrument, block)
            if cost.line:
                line, depth = cost.line, 1  # a line has one exchange at a time
            busy_s = cost.busy_s if cost.line else instrument.tags.ReplyDelay
            asked.setdefault(block.scan_class, []).append(
                BlockPlan(block.label, points, cost.request_bytes, cost.answer_bytes, busy_s)
            )
    classes = [ClassPlan(name, periods_s[name], tuple(blocks)) for name, blocks in asked.items()]
    return DevicePlan(
        name=instrument.name,
        file=instrument.file,
        protocol=instrument.tags.Communication,
        line=line,
        depth=depth,
        reply_delay_s=instrument.tags.ReplyDelay,
        classes=tuple(sorted(classes, key=lambda c: c.period_s)),
        sent=tuple(sent),
        unknown=tuple(unknown),
    )


def _work_s(blocks: Sequence[BlockPlan], depth: int) -> float:
    """How long the device is occupied by blocks that are asked in a row."""
    return sum(
        max(b.exchange_s for b in blocks[at : at + depth]) for at in range(0, len(blocks), depth)
    )


# ---------------------------------------------------------------- worst ages


@dataclass(frozen=True, slots=True)
class _Work:
    """One run of a scan class: how long it occupies the device, with how many questions."""

    period_s: float
    busy_s: float
    questions: int

    def runs(self, window_s: float) -> int:
        """How often it can fall due within a window, its ends included."""
        return math.floor(window_s / self.period_s) + 1


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What can go ahead of a scan class.

    faster   classes of the device
    batch_s  the longest batch of a slower one; `batch_questions` is how many it has at most
    turn_s   one exchange of every other instrument on the line
    others   what these instruments ask, by period
    """

    faster: Sequence[_Work]
    batch_s: float
    batch_questions: int
    turn_s: float
    others: Sequence[_Work]


def _with_ages(devices: Sequence[DevicePlan]) -> list[DevicePlan]:
    """The devices of one line, or one device of a network, with the worst ages of their points."""
    if sum(device.load for device in devices) >= LOAD_MAX:
        return list(devices)
    longest_s = {
        d.name: max((b.exchange_s for c in d.classes for b in c.blocks), default=0.0)
        for d in devices
    }
    asked_s = {device.name: _asked_s(device) for device in devices}
    all_s: dict[float, float] = {}
    for own_s in asked_s.values():
        for period_s, busy_s in own_s.items():
            all_s[period_s] = all_s.get(period_s, 0.0) + busy_s
    aged = []
    for device in devices:
        own_s = asked_s[device.name]
        left_s = {period_s: busy_s - own_s.get(period_s, 0.0) for period_s, busy_s in all_s.items()}
        others = [_Work(period_s, busy_s, 0) for period_s, busy_s in left_s.items() if busy_s > 0]
        turn_s = sum(s for name, s in longest_s.items() if name != device.name)
        classes = []
        for scan_class in device.classes:
            ages = _ages_s(scan_class, device.depth, _ahead(device, scan_class, turn_s, others))
            pairs = zip(scan_class.blocks, ages, strict=True)
            blocks = tuple(replace(block, worst_age_s=age_s) for block, age_s in pairs)
            classes.append(replace(scan_class, blocks=blocks))
        aged.append(replace(device, classes=tuple(classes)))
    return aged


def _asked_s(device: DevicePlan) -> dict[float, float]:
    """Period -> seconds of all questions of one run."""
    busy_s: dict[float, float] = {}
    for scan_class in device.classes:
        before_s = busy_s.get(scan_class.period_s, 0.0)
        busy_s[scan_class.period_s] = before_s + _work_s(scan_class.blocks, 1)
    return busy_s


def _ahead(device: DevicePlan, own: ClassPlan, turn_s: float, others: Sequence[_Work]) -> _Ahead:
    faster, batches = [], [(0.0, 0)]
    for other in device.classes:
        if other.period_s < own.period_s:
            busy_s = _work_s(other.blocks, device.depth)
            faster.append(_Work(other.period_s, busy_s, len(other.blocks)))
        elif other is not own:
            # One with the same period is not interrupted: it is one batch.
            size = device.depth if other.period_s > own.period_s else len(other.blocks)
            cuts = (other.blocks[at : at + size] for at in range(0, len(other.blocks), size))
            batches += [(_work_s(cut, device.depth), len(cut)) for cut in cuts]
    batch_s, questions = max(s for s, _ in batches), max(count for _, count in batches)
    return _Ahead(faster, batch_s, questions, turn_s, others)


def _ages_s(own: ClassPlan, depth: int, ahead: _Ahead) -> list[float | None]:
    """The worst age of each block's points; None where there is no end.

    Non-preemptive response-time analysis, by fixed points: at worst everything that can falls due
    with the class; at best it just did, and the faster classes run as seldom as they can. Blocks
    further behind are asked later, so each search goes on where the one before ended.
    """
    ages: list[float | None] = []
    worst_s, soonest_s = ahead.batch_s, 0.0
    done_s = batch_s = 0.0
    for at, block in enumerate(own.blocks):
        if at % depth == 0:
            done_s, batch_s = done_s + batch_s, 0.0
        before_s = done_s + batch_s
        batch_s = max(batch_s, block.exchange_s)
        worst = _worst_s(worst_s, at, before_s, ahead, 10 * own.period_s)
        if worst is None:
            return ages + [None] * (len(own.blocks) - at)
        worst_s = worst
        soonest_s = _soonest_s(soonest_s, before_s, ahead.faster)
        ages.append(own.period_s + block.exchange_s + before_s + worst_s - soonest_s)
    return ages


def _worst_s(
    shift_s: float, at: int, before_s: float, ahead: _Ahead, limit_s: float
) -> float | None:
    """How long a class's block number `at` waits for what is not of its class, at worst."""
    for _ in range(ROUNDS_MAX):
        window_s = before_s + shift_s
        runs = [(work, work.runs(window_s)) for work in ahead.faster]
        grown_s = ahead.batch_s + sum(count * work.busy_s for work, count in runs)
        if ahead.others:
            questions = at + 1 + ahead.batch_questions
            questions += sum(count * work.questions for work, count in runs)
            most_s = sum(work.runs(window_s) * work.busy_s for work in ahead.others)
            grown_s += min(questions * ahead.turn_s, most_s)
        if grown_s <= shift_s + 1e-9:
            return shift_s
        if grown_s > limit_s:
            return None
        shift_s = grown_s
    return None


def _soonest_s(soonest_s: float, before_s: float, faster: Sequence[_Work]) -> float:
    """When a block is asked at best, seconds after its class fell due."""
    soonest_s = max(soonest_s, before_s)
    for _ in range(ROUNDS_MAX):
        grown_s = before_s
        for work in faster:
            runs = max(0, math.ceil(soonest_s / work.period_s - 1e-9) - 1)
            grown_s += runs * work.busy_s
        if grown_s <= soonest_s + 1e-9:
            break
        soonest_s = grown_s
    return soonest_s
