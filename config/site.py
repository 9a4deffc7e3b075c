"""A site: one folder of JSON files, loaded. Built by config/load.py, read by everyone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config.functions import GridFunction
from config.link import LinkFile
from config.model import (
    AlarmRule,
    Channel,
    ControlRule,
    EquipmentTags,
    MethodStep,
    StateRule,
    SystemConfig,
)
from config.points import PointDef
from config.states import StateMachine


@dataclass(frozen=True, slots=True)
class ScanClass:
    """A poll period that many channels share."""

    name: str
    period_ns: int


@dataclass(frozen=True, slots=True)
class Instrument:
    """One active instrument: its file, its tags, its active channels and their points.

    `channels` and `points` have the same keys (channel names) in the same order; `periods_ns` has
    the poll period of each scan class.
    """

    name: str
    file: str
    tags: EquipmentTags
    channels: Mapping[str, Channel]
    points: Mapping[str, PointDef]
    periods_ns: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Personality:
    """The rules of a site; `*_file` are the names that findings mention."""

    alarms: Mapping[str, AlarmRule]
    states: Mapping[str, StateRule]
    controls: Mapping[str, ControlRule]
    methods: Mapping[str, list[MethodStep]]
    alarms_file: str
    states_file: str
    controls_file: str
    machines: Mapping[str, StateMachine] = field(default_factory=dict)  # in `controls_file`
    functions: Mapping[str, GridFunction] = field(default_factory=dict)  # in `controls_file`


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that a site folder declares.

    `points` are all points in the order of their index: devices, then gateway, then one
    discrete point a rule (equipment ``Alarms``, ``States``, ``Controls``). `hash` names the
    configuration: SHA-256 over the files' bytes, 16 hexadecimal digits.
    """

    name: str
    folder: Path
    system: SystemConfig
    instruments: Mapping[str, Instrument]
    personality: Personality
    link: LinkFile
    scan_classes: Mapping[str, ScanClass]
    scan_period_ns: int
    points: tuple[PointDef, ...]
    hash: str

    @property
    def index(self) -> dict[str, int]:
        """Tag -> index of the point."""
        return {point.tag: point.index for point in self.points}
