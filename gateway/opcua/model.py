"""What the address space shows of a site beside its points. Small, so that the link keeps it.

The link process drops the site's instruments once it has taken what it needs (gateway/link.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.model import AlarmRule
from config.points import rule_tag
from config.site import Instrument, Site
from config.states import StateMachine
from config.template import SHIPPED, SITE_FOLDER


@dataclass(frozen=True, slots=True)
class EquipmentModel:
    """One instrument: where it stands, what it is, how it is reached.

    manufacturer, model, manual   of its template; "" where it has none
    decimals                      channel -> digits behind the point, where they are declared
    definitions                   channel -> expression that it is calculated from
    """

    name: str
    location: str
    kind: str
    protocol: str
    template: str
    reference: str
    manufacturer: str = ""
    model: str = ""
    manual: str = ""
    decimals: Mapping[str, int] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CauseModel:
    """A trip or interlock; `bypass_max_s` 0 = it can't be bypassed."""

    name: str
    kind: str
    description: str
    bypass_max_s: float


@dataclass(frozen=True, slots=True)
class SiteModel:
    """Names of equipment, and tags of alarms, machines and causes, with what they are."""

    site: str
    hash: str
    equipment: Mapping[str, EquipmentModel] = field(default_factory=dict)
    alarms: Mapping[str, AlarmRule] = field(default_factory=dict)
    machines: Mapping[str, StateMachine] = field(default_factory=dict)
    causes: Mapping[str, CauseModel] = field(default_factory=dict)


def model_of(site: Site) -> SiteModel:
    """What OPC UA shows of a site that was loaded."""
    rules = site.personality
    return SiteModel(
        site=site.name,
        hash=site.hash,
        equipment={name: _equipment(site, one) for name, one in site.instruments.items()},
        alarms={rule_tag("alarm", name): rule for name, rule in rules.alarms.items()},
        machines={rule_tag("machine", name): one for name, one in rules.machines.items()},
        causes={
            rule_tag("control", name): CauseModel(name, rule.Kind, rule.Description, rule.BypassMax)
            for name, rule in rules.controls.items()
            if rule.Kind != "Permissive"
        },
    )


def _equipment(site: Site, instrument: Instrument) -> EquipmentModel:
    tags = instrument.tags
    maker = _template_tags(site.folder, tags.Template)
    channels = instrument.channels.items()
    return EquipmentModel(
        name=instrument.name,
        location=tags.EquipmentLocation,
        kind=tags.EquipmentType,
        protocol=tags.Communication,
        template=tags.Template or "",
        reference=tags.Reference,
        manufacturer=str(maker.get("Manufacturer", "")),
        model=str(maker.get("Model", "")),
        manual=str(maker.get("Manual", "")),
        decimals={name: one.Decimal for name, one in channels if one.Decimal is not None},
        definitions={name: one.Expression for name, one in channels if one.Expression is not None},
    )


def _template_tags(folder: Path, template: str | None) -> dict[str, Any]:
    """What a template says of its device; the site's own template goes before the shipped one.

    Nothing where the file went since the site was loaded.
    """
    if not template:
        return {}
    for place in (folder / SITE_FOLDER, SHIPPED):
        try:
            content = json.loads((place / f"{template}.json").read_bytes())
        except (OSError, ValueError):
            continue
        tags = content.get("TemplateTags") if isinstance(content, dict) else None
        return tags if isinstance(tags, dict) else {}
    return {}
