"""What a demonstration showed: the JSON object, the words for people, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from cloud.historian import AuditReport
from gateway.cli.output import counted, table

# Causes of protective writes that are no trip of a rule.
NO_TRIP: Final = ("start-up", "stop", "fallback")


@dataclass(slots=True)
class Outage:
    """One stop of the broker: how long, the largest backlog, and how long the rest took.

    drain_s   from the broker's return until everything of the outage was acknowledged; None where
              that did not happen
    """

    seconds: float
    backlog_max_records: int = 0
    drain_s: float | None = None


@dataclass(slots=True)
class Report:
    """All figures; `figures` is the form that ``--json`` prints."""

    site: str
    seconds: float = 0.0
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: int = 0
    records: int = 0  # numbers that the journal gave away
    stored: int = 0  # the newest number that the link holds durably
    acknowledged: int = 0  # the newest contiguous number that the historian confirmed
    historian: int = 0  # records and events in the historian
    missing: int = 0
    duplicates: int = 0
    gaps: list[dict[str, Any]] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    scan: dict[str, float] = field(default_factory=dict)
    trips: list[dict[str, Any]] = field(default_factory=list)
    opcua_url: str = ""
    opcua_variables: int = 0
    broker_url: str = ""

    def figures(self) -> dict[str, Any]:
        """The JSON object of ``gatepost demo --json``; docs/demo.md explains each key."""
        return {
            "site": self.site,
            "seconds": round(self.seconds, 3),
            "devices": self.devices,
            "points": self.points,
            "records": self.records,
            "stored": self.stored,
            "acknowledged": self.acknowledged,
            "historian": self.historian,
            "missing": self.missing,
            "duplicates": self.duplicates,
            "gaps": self.gaps,
            "outages": [
                {
                    "seconds": round(outage.seconds, 3),
                    "backlog_max_records": outage.backlog_max_records,
                    "drain_s": None if outage.drain_s is None else round(outage.drain_s, 3),
                }
                for outage in self.outages
            ],
            "scan": self.scan,
            "trips": self.trips,
            "opcua": {"url": self.opcua_url, "variables": self.opcua_variables},
            "broker": {"url": self.broker_url},
        }

    def take_status(self, status: Mapping[str, Any]) -> None:
        """Figures of the field's own status."""
        self.points = int(status["points"])
        self.stored = int(status["taken"])
        keys = ("protocol", "points", "polls", "errors")
        self.devices = {
            name: {key: device[key] for key in keys} for name, device in status["devices"].items()
        }
        keys = ("period_ms", "count", "overruns", "lateness_p99_ms")
        self.scan = {key: status["scan"][key] for key in keys}
        link = status["link"] or {}
        acknowledged = link.get("acknowledged") or (0, 0)
        if acknowledged[0] == status["epoch"]:
            self.acknowledged = int(acknowledged[1])
        self.opcua_variables = int(link.get("opcua_variables") or self.opcua_variables)

    def take_audit(self, audit: AuditReport, newest: Mapping[int, int]) -> None:
        """Compare what the journal gave away with what the historian holds.

        newest  epoch -> the last number that the journal gave away in it. A tail that the
                historian lacks is missing, unless the end of that epoch was declared lost.
        """
        epochs = {epoch.epoch: epoch for epoch in audit.epochs}
        self.records = sum(newest.values())
        self.historian = audit.rows + audit.events
        self.duplicates = audit.duplicates
        self.missing = audit.missing
        for number, last in newest.items():
            epoch = epochs.get(number)
            if epoch is None:
                self.missing += last
            elif all(gap.last for gap in epoch.gaps):
                self.missing += max(0, last - epoch.last)
        current = epochs.get(max(newest, default=0))
        self.acknowledged = current.contiguous if current else 0
        self.gaps = [
            {"epoch": epoch.epoch, "first": gap.first, "last": gap.last, "reason": gap.reason}
            for epoch in audit.epochs
            for gap in epoch.gaps
        ]

    def faults(self, *, trip: bool, outage: bool) -> list[str]:
        """Why the demonstration did not show what it should; empty where it did."""
        found = []
        if not self.records:
            found.append("the journal is empty: nothing was recorded")
        if self.missing:
            found.append(f"{self.missing} numbers of the journal are missing in the historian")
        if self.duplicates:
            found.append(f"{self.duplicates} numbers stand twice in the historian")
        if trip and not any(entry["verified"] for entry in self.trips):
            found.append("no trip was verified by read-back")
        if outage and not any(entry.drain_s is not None for entry in self.outages):
            found.append("the backlog of the outage was not drained")
        return found


def trips_of(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The outputs that trips drove, from the bodies of receipt events in their order.

    One entry a cause and output. `reaction_ms` counts from the source time of the input that made
    the cause until the device accepted the write (until the read-back where the device held the
    value already); null where neither came.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for body in events:
        cause = body.get("cause")
        if not cause or cause in NO_TRIP or ": " in cause:  # <machine>: <state>
            continue
        key = (str(cause), str(body["tag"]))
        blank = {"cause": key[0], "output": key[1], "verified": False, "reaction_ms": None}
        entry = found.setdefault(key, blank)
        if body["step"] in ("driven", "verified") and entry["reaction_ms"] is None:
            entry["reaction_ms"] = body.get("reaction_ms")
        if body["step"] == "verified":
            entry["verified"] = True
    return list(found.values())


def report_view(report: Report, faults: Sequence[str]) -> RenderableType:
    """The report for people."""
    lines = table("", "")
    lines.add_row("journal", f"{report.records} numbers")
    lines.add_row("historian", f"{report.historian} rows")
    # Numbers begin anew with each life of the field process, and these two are of the last one.
    lines.add_row("this epoch", f"up to {report.stored} stored, {report.acknowledged} acknowledged")
    lines.add_row("missing", f"{report.missing}")
    lines.add_row("duplicates", f"{report.duplicates}")
    for gap in report.gaps:
        numbers = f"{gap['first']} to {gap['last']}" if gap["last"] else f"from {gap['first']} on"
        lines.add_row("gap", f"epoch {gap['epoch']}, {numbers}: {gap['reason']}")
    for outage in report.outages:
        drained = "not drained" if outage.drain_s is None else f"drained in {outage.drain_s:.1f} s"
        lines.add_row(
            "outage",
            f"{outage.seconds:.1f} s without broker, backlog up to "
            f"{outage.backlog_max_records} records, {drained}",
        )
    for trip in report.trips:
        verified = "verified" if trip["verified"] else "NOT verified"
        reaction = "" if trip["reaction_ms"] is None else f" after {trip['reaction_ms']:.0f} ms"
        lines.add_row("trip", f"{trip['cause']} drove {trip['output']}{reaction}, {verified}")
    if report.scan:
        lines.add_row(
            "scan",
            f"{report.scan['count']} every {report.scan['period_ms']:g} ms, "
            f"{report.scan['overruns']} skipped, "
            f"late by {report.scan['lateness_p99_ms']:g} ms (99 %)",
        )
    verdict = [Text(f"NOT SHOWN: {fault}", style="bold red") for fault in faults]
    return Group(lines, *(verdict or [verdict_of(report.gaps)]))


def verdict_of(gaps: Sequence[Mapping[str, Any]]) -> Text:
    """What a demonstration showed that found no fault: declared gaps are no silent success."""
    if not gaps:
        return Text("nothing missing, nothing twice", style="green")
    count = sum(gap["last"] - gap["first"] + 1 for gap in gaps if gap["last"])
    tails = [f"the tail of epoch {gap['epoch']}" for gap in gaps if not gap["last"]]
    lost = [f"{counted(count, 'number')} declared lost"] if count else []
    lost += [f"{tail} declared lost" for tail in tails]
    return Text(
        f"nothing twice, nothing missing but what was declared: {', '.join(lost)}", "yellow"
    )
