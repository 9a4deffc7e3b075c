"""What the checks of all drivers share: faulty keys, shared addresses, values to write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

from config.findings import Finding, Severity, SiteError
from config.model import Channel
from config.site import Instrument
from drivers.errors import OutOfRange


class Fault(NamedTuple):
    """One mistake in one channel (or, in `EquipmentTags`, in the instrument)."""

    key: str
    rule: str
    message: str
    severity: Severity = "error"


def channel_findings(instrument: Instrument, name: str, faults: Iterable[Fault]) -> list[Finding]:
    """Faults of a channel as findings, with the file and the whole path of the key."""
    return [
        Finding(instrument.file, f"Channels.{name}.{f.key}", f.rule, f.message, f.severity)
        for f in faults
    ]


def tag_findings(instrument: Instrument, faults: Iterable[Fault]) -> list[Finding]:
    """Faults of the instrument as findings."""
    return [
        Finding(instrument.file, f"EquipmentTags.{f.key}", f.rule, f.message, f.severity)
        for f in faults
    ]


def refuse(findings: list[Finding]) -> None:
    """Raises SiteError where a finding is an error: nothing is planned on a wrong address."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise SiteError(errors)


def whole_number(value: int | str | None) -> int | None:
    """A number or a numeric text, ``8192``, ``"8192"`` or ``"0x2000"``; None for anything else."""
    if isinstance(value, int):
        return value
    if value is None:
        return None
    text = value.strip().lower()
    try:
        return int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        return None


def value_faults(channel: Channel, encode: Callable[[float], object]) -> list[Fault]:
    """Declared values of an output that its data type can't hold; `encode` raises OutOfRange."""
    if channel.ReadWrite == "R":
        return []
    faults = []
    for key in ("SafeValue", "Fallback", "Minimum", "Maximum"):
        value = getattr(channel, key)
        if value is None:
            continue
        try:
            encode(value)
        except OutOfRange as error:
            severity: Severity = "error" if key in ("SafeValue", "Fallback") else "warning"
            message = f"{key} {value:g} can't be written to this channel: {error}."
            faults.append(Fault(key, "value-range", message, severity))
    return faults


def scalar_faults(channel: Channel) -> list[Fault]:
    """A Scalar of 0 makes every value 0 and has no inverse."""
    if channel.Scalar != 0:
        return []
    return [Fault("Scalar", "scalar-zero", "Scalar is 0: every value would be 0. Leave it out.")]


def data_type_faults(channel: Channel, known: Collection[str]) -> list[Fault]:
    """A `DataType`, in any case, that is none of the known ones."""
    if channel.DataType.lower() in known:
        return []
    text = f"'{channel.DataType}' is unknown. Use one of {', '.join(known)}."
    return [Fault("DataType", "datatype-unknown", text)]


def named_findings(
    instrument: Instrument,
    tag_faults: Iterable[Fault],
    faults_of: Callable[[Channel], list[Fault]],
    name_of: Callable[[Channel], str],
) -> list[Finding]:
    """All findings of an instrument whose channels are addressed by names, `name_of` each."""
    findings = tag_findings(instrument, tag_faults)
    slots: dict[str, list[str]] = {}
    for name, channel in instrument.channels.items():
        faults = faults_of(channel)
        findings += channel_findings(instrument, name, faults)
        if not faults:
            slots[name] = [name_of(channel)]
    return findings + shared_addresses(instrument, slots, lambda name: slots[name][0])


# ---------------------------------------------------------------- channels on one address


def shared_addresses(
    instrument: Instrument, slots: Mapping[str, Iterable[Hashable]], where: Callable[[str], str]
) -> list[Finding]:
    """One finding for each set of channels that lie on one address, naming them all.

    slots  channel -> the smallest addressable things it occupies
    where  channel -> its address for people

    Two pairs may share: an output and the channel that it names in `ReadBack`, and two read-only
    channels of which one is a bit field of the other (a status word and its flags).
    """
    tenants: dict[Hashable, list[str]] = {}
    for name, taken in slots.items():
        for slot in set(taken):
            tenants.setdefault(slot, []).append(name)
    pairs = {pair for names in tenants.values() for pair in combinations(names, 2)}
    group = {name: {name} for name in slots}
    for first, second in sorted(pairs):
        if not _may_share(instrument, first, second) and group[first] is not group[second]:
            group[first] |= group[second]
            for name in group[second]:
                group[name] = group[first]
    findings = []
    for name in slots:
        if len(group[name]) == 1:
            continue  # nearly all; the search for the others' order would be quadratic
        members = [other for other in slots if other in group[name]]
        if members[0] == name:
            findings.append(_shared(instrument, members, where(name)))
    return findings


def module_findings(instrument: Instrument) -> list[Finding]:
    """Channels of one Type on one Module and Channel, whatever the Communication is."""
    slots = {
        name: [(channel.Type, channel.Module, channel.Channel)]
        for name, channel in instrument.channels.items()
        if channel.Module is not None and channel.Channel is not None
    }

    def where(name: str) -> str:
        channel = instrument.channels[name]
        return f"{channel.Type} Module {channel.Module} Channel {channel.Channel}".strip()

    return shared_addresses(instrument, slots, where)


def _may_share(instrument: Instrument, first: str, second: str) -> bool:
    one, other = instrument.channels[first], instrument.channels[second]
    if one.ReadBack == second or other.ReadBack == first:
        return True
    read_only = one.ReadWrite == other.ReadWrite == "R"
    return read_only and (one.DataType.lower() == "bit") != (other.DataType.lower() == "bit")


def _shared(instrument: Instrument, members: list[str], where: str) -> Finding:
    names = f"{', '.join(members[:-1])} and {members[-1]}"
    writes = any(instrument.channels[name].ReadWrite != "R" for name in members)
    return Finding(
        instrument.file,
        f"Channels.{members[0]}",
        "address-shared",
        f"{names} share one address ({where}). Give each channel its own; an output and the "
        "channel that shows it may share one where the output names it in ReadBack.",
        "error" if writes else "warning",
    )
