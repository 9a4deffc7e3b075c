"""Sites made of a few lines, and plants of numbers to scan: what the tests of safety/ share."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import status
from config.findings import Finding
from config.link import LinkFile
from config.model import (
    AlarmStatesFile,
    Channel,
    ControlStatesFile,
    EquipmentTags,
    SystemConfig,
    SystemStatesFile,
)
from config.points import POINT, RULE_EQUIPMENT, PointDef, rule_channel, rule_tag
from config.site import Instrument, Personality, ScanClass, Site
from gateway import kernel_cache
from safety import kernel, reference
from safety.compile import compile_site
from safety.engine import Engine
from tests.safety.bounds import check_bounds

MS = 1_000_000
S = 1_000_000_000
EVALUATORS: dict[str, Callable[..., int]] = {
    "kernel": kernel.evaluate,
    "native": kernel_cache.load(Path(tempfile.gettempdir())),  # what the field process runs
    "reference": reference.evaluate,
}


def case_site(folder: Path) -> Site:
    """The site of a case: its rules.json holds what the files of a site hold."""
    rules = json.loads((folder / "rules.json").read_text(encoding="utf-8"))
    site = make_site(
        rules.pop("Channels"),
        rules.pop("AlarmStates", None),
        rules.pop("SystemStates", None),
        rules.pop("Automatic_Controls", None),
        rules.pop("Control_Methods", None),
        rules.pop("Control_States", None),
        rules.pop("Grid_Functions", None),
    )
    assert not rules, f"unknown keys {list(rules)}"
    return site


def make_site(
    channels: Mapping[str, Mapping[str, Any]],
    alarms: Mapping[str, Any] | None = None,
    states: Mapping[str, Any] | None = None,
    controls: Mapping[str, Any] | None = None,
    methods: Mapping[str, Any] | None = None,
    machines: Mapping[str, Any] | None = None,
    functions: Mapping[str, Any] | None = None,
) -> Site:
    """A site of channels (tag -> keys of a channel) and rules, in the form of the site's files."""
    points: list[PointDef] = []
    instruments: dict[str, tuple[dict[str, Channel], dict[str, PointDef]]] = {}
    for tag, keys in channels.items():
        equipment, _, name = tag.partition(".")
        channel = Channel(**{"Type": "Analog", **keys})
        point = _device_point(len(points) + 1, tag, channel)
        points.append(point)
        parts = instruments.setdefault(equipment, ({}, {}))
        parts[0][name], parts[1][name] = channel, point
    personality = _personality(
        {"AlarmStates": dict(alarms or {})},
        {"SystemStates": dict(states or {})},
        {
            "Automatic_Controls": dict(controls or {}),
            "Control_Methods": dict(methods or {}),
            "Control_States": dict(machines or {}),
            "Grid_Functions": dict(functions or {}),
        },
    )
    for channel_name in ("E_Stop", "Reset"):
        tag = f"Gateway.{channel_name}"
        number = len(points) + 1
        points.append(PointDef(number, tag, "Gateway", channel_name, "discrete", "gateway"))
    _add_rule_points(points, personality)
    system = _system(instruments)
    return Site(
        name="test",
        folder=Path("test"),
        system=system,
        instruments={
            name: Instrument(
                name,
                f"{name}.json",
                EquipmentTags(EquipmentName=name, Communication="Virtual"),
                *parts,
                periods_ns={"Fast": S},
            )
            for name, parts in instruments.items()
        },
        personality=personality,
        link=LinkFile(),
        scan_classes={"Fast": ScanClass("Fast", S)},
        scan_period_ns=100 * MS,
        points=tuple(points),
        hash="0" * 16,
    )


def _personality(
    alarms: Mapping[str, Any], states: Mapping[str, Any], controls: Mapping[str, Any]
) -> Personality:
    """The contents of the three files."""
    control_file = ControlStatesFile.model_validate(controls)
    return Personality(
        AlarmStatesFile.model_validate(alarms).AlarmStates,
        SystemStatesFile.model_validate(states).SystemStates,
        control_file.Automatic_Controls,
        control_file.Control_Methods,
        "AlarmStates.json",
        "SystemStates.json",
        "ControlStates.json",
        {name: m for name, m in control_file.Control_States.items() if m.Active},
        {name: f for name, f in control_file.Grid_Functions.items() if f.Active},
    )


def _system(names: Iterable[str]) -> SystemConfig:
    return SystemConfig.model_validate(
        {
            "SystemTags": {"SystemName": "test"},
            "Equipment": {name: {"Config": f"{name}.json"} for name in names},
            "DataSampling": {"Fast": {"FilterKey": "Fast", "Rate": 1}},
        }
    )


def _device_point(index: int, tag: str, channel: Channel) -> PointDef:
    equipment, _, name = tag.partition(".")

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    return PointDef(
        index=index,
        tag=tag,
        equipment=equipment,
        channel=name,
        kind="analog" if channel.Type == "Analog" else "discrete",
        source="device" if channel.Expression is None else "virtual",
        units=channel.Units,
        scan_class="Fast" if channel.Expression is None else "",
        readable="R" in channel.ReadWrite,
        writable="W" in channel.ReadWrite,
        age_ns_max=round((channel.AgeLimit or 10.0) * S),
        value_min=number(channel.Minimum),
        value_max=number(channel.Maximum),
        safe_value=number(channel.SafeValue),
        fallback=number(channel.SafeValue if channel.Fallback is None else channel.Fallback),
        ramp_rate_per_s=number(channel.RampRate),
        read_back=index if "R" in channel.ReadWrite and "W" in channel.ReadWrite else 0,
        states=tuple(channel.States),
    )


def _add_rule_points(points: list[PointDef], personality: Personality) -> None:
    kinds: tuple[tuple[str, Iterable[str]], ...] = (
        ("alarm", personality.alarms),
        ("state", personality.states),
        ("control", personality.controls),
        ("machine", personality.machines),
        ("function", personality.functions),
    )
    for kind, rules in kinds:
        for name in rules:
            number = kind == "function"
            points.append(
                PointDef(
                    len(points) + 1,
                    rule_tag(kind, name),
                    RULE_EQUIPMENT[kind],
                    rule_channel(name),
                    "analog" if number else "discrete",
                    "virtual" if number else "rule",
                    writable=kind == "machine",
                )
            )


def errors(findings: list[Finding]) -> list[str]:
    """The names of the checks that found an error, sorted."""
    return sorted(finding.rule for finding in findings if finding.severity == "error")


class Plant:
    """A point table and an engine over it; time moves by `scan`."""

    def __init__(self, site: Site, evaluate: Callable[..., int] = kernel.evaluate) -> None:
        program, findings = compile_site(site)
        assert program is not None, "\n".join(map(str, findings))
        check_bounds(program)
        self.site = site
        self.program = program
        self.engine = Engine(program, evaluate)
        self.rows: NDArray[np.void] = np.zeros(len(site.points) + 1, dtype=POINT)
        self.rows["status"] = status.BAD_WAITING_FOR_INITIAL_DATA
        self.rows["value"] = math.nan
        self.now_ns = 1000 * S
        self._numbers = {info.name: at for at, info in enumerate(program.info)}
        for point in site.points:
            if point.source == "gateway":
                self.set(point.tag, 0.0)

    def set(self, tag: str, value: float, code: int = status.GOOD) -> None:
        """Write one point as a poll does."""
        row = self.rows[self.site.index[tag]]
        row["value"], row["status"], row["mono_ns"] = value, code, self.now_ns

    def worsen(self, tag: str, code: int = status.BAD_NO_COMMUNICATION) -> None:
        """Lose a point: its value and its age stay."""
        self.rows[self.site.index[tag]]["status"] = code

    def scan(self, step_ns: int = 100 * MS, reset: bool = False) -> list[str]:
        """Move time, scan; returns the names of the rules that changed."""
        self.now_ns += step_ns
        changed = self.engine.scan(self.rows, self.now_ns, reset)
        return [self.program.info[at].name for at in changed]

    def rule(self, name: str) -> int:
        """The row of a rule."""
        return self._numbers[name]

    def level(self, name: str) -> str | None:
        """What a rule shows; None where it is inactive."""
        return self.program.strings[self.engine.level[self.rule(name)]] or None

    def latched(self, name: str) -> bool:
        """Whether a rule is latched."""
        return bool(self.engine.latched[self.rule(name)])

    def first_out(self, name: str) -> int:
        """A rule's first-out number."""
        return int(self.engine.first_out[self.rule(name)])

    def demand(self, tag: str) -> tuple[float, int, str]:
        """Value, rank and cause of the demand on an output."""
        at = self.program.outputs.tolist().index(self.site.index[tag])
        cause = int(self.engine.cause[at])
        names = {-1: "", -2: "startup"}
        name = names.get(cause) if cause < 0 else self.program.info[cause].name
        return float(self.engine.demand[at]), int(self.engine.rank[at]), name or ""
