"""Templates: what all devices of one model have in common, one file a model.

An instrument file that names one (`EquipmentTags.Template`) gets the template's keys wherever it
has none of its own. The files that Gatepost ships are in ``config/templates/``; a site's own in
its folder ``templates/`` come first.

Without pydantic, so that simulators, which read the same files, start small.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from config.findings import Finding, Severity, printable
from config.read import Files

SHIPPED: Final = Path(__file__).with_name("templates")
SITE_FOLDER: Final = "templates"  # inside a site folder

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)

# Keys that say where a channel is; a channel with none of them can only change another one.
_ADDRESS_KEYS: Final = frozenset(
    (
        "DataType",
        "Expression",
        "IOPoint",
        "Module",
        "QueryText",
        "RequestText",
        "Type",
        "WriteText",
    )
)
# Keys that are true of one site only.
_SITE_KEYS: Final = (
    "EquipmentName",
    "EquipmentLocation",
    "Emails",
    "Template",
    "VISA_address",
    "TargetIP",
    "Server",
    "PasswordFile",
    "CertificateFile",
    "KeyFile",
    "ServerCertificateFile",
)
_SITE_PLACE_KEYS: Final = ("IP", "Port")  # of Connection


def shipped_names() -> list[str]:
    """The templates that Gatepost ships, sorted."""
    return _names(SHIPPED)


def site_names(site: Path) -> list[str]:
    """The templates in a site's own folder, sorted."""
    return _names(site / SITE_FOLDER)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(p.stem for p in folder.glob("*.json") if _NAME.fullmatch(p.stem))
    except OSError:  # a folder without rights has none to offer
        return []


def template_of(instrument: Any) -> Any:
    """What a parsed instrument file has in `EquipmentTags.Template`; None for nothing."""
    tags = instrument.get("EquipmentTags") if isinstance(instrument, dict) else None
    return tags.get("Template") if isinstance(tags, dict) else None


def merged(template: Mapping[str, Any], instrument: Mapping[str, Any]) -> dict[str, Any]:
    """An instrument file with the template's keys wherever it has none of its own.

    Both as parsed JSON. `EquipmentTags`, `Connection` and each channel are joined key by key; the
    order of the channels is the template's, then the instrument's own. What is no object where one
    belongs is left as the instrument has it, for the validation to name.
    """
    result = dict(instrument)
    tags = _joined(template.get("EquipmentTags"), instrument.get("EquipmentTags"))
    if isinstance(tags, dict):
        outer, own = template.get("EquipmentTags"), instrument.get("EquipmentTags")
        if isinstance(outer, dict) and isinstance(own, dict) and "Connection" in own:
            tags["Connection"] = _joined(outer.get("Connection"), own["Connection"])
    result["EquipmentTags"] = tags
    channels = _joined(template.get("Channels"), instrument.get("Channels", {}))
    if isinstance(channels, dict):
        below = template.get("Channels")
        for name, channel in instrument.get("Channels", {}).items():
            if isinstance(below, dict) and name in below:
                channels[name] = _joined(below[name], channel)
    result["Channels"] = channels
    return result


def _joined(below: Any, above: Any) -> Any:
    return {**below, **above} if isinstance(below, dict) and isinstance(above, dict) else above


@dataclass(slots=True)
class Templates:
    """Finds and reads the templates of one site; `files` are the site's own."""

    files: Files
    findings: list[Finding] = field(default_factory=list)

    def content(self, file: str, name: Any) -> tuple[str, Any]:
        """The template that `file` names: its file's name for findings, and its parsed content.

        The content is None, with a finding, where there is none or it can't be read.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            shown = printable(name) if isinstance(name, str) else type(name).__name__
            self._unknown(file, shown)
            return "", None
        path = f"{SITE_FOLDER}/{name}.json"
        if self.files.stands(path):  # what is there and can't be read is named for that
            return path, self.files.json(path)
        if name not in shipped_names():
            self._unknown(file, name)
            return "", None
        shipped = Files(SHIPPED)
        value = shipped.json(f"{name}.json")
        # The configuration's hash covers the template: a site file can't have a colon in its name.
        self.files.used |= {f"template:{used}": raw for used, raw in shipped.used.items()}
        self.findings += [replace(finding, file=path) for finding in shipped.findings]
        return path, value

    def checked(self, file: str, template: Any, instrument: Any) -> Any:
        """The instrument without channels that change nothing, each of which is a finding."""
        below = template.get("Channels") if isinstance(template, dict) else None
        own = instrument.get("Channels") if isinstance(instrument, dict) else None
        if not isinstance(below, dict) or not isinstance(own, dict):
            return instrument
        kept = dict(own)
        for name, channel in own.items():
            if not isinstance(channel, dict):
                continue
            key = f"Channels.{printable(name)}"
            if name not in below:
                if not _ADDRESS_KEYS & set(channel):
                    self._channel_unknown(file, key, name, below)
                    del kept[name]
            elif below[name].get("Active") is False and "Active" not in channel:
                self._add(
                    file,
                    key,
                    "template-channel-off",
                    "The template has this channel switched off, so these keys have no effect. "
                    'Add "Active": true, or remove them.',
                    "warning",
                )
        return {**instrument, "Channels": kept}

    def check_template(self, path: str, template: Any) -> None:
        """Findings about keys of a template that only a site can know."""
        tags = template.get("EquipmentTags") if isinstance(template, dict) else None
        if not isinstance(tags, dict):
            return
        place = tags.get("Connection")
        keys = [key for key in _SITE_KEYS if key in tags]
        if isinstance(place, dict):
            keys += [f"Connection.{key}" for key in _SITE_PLACE_KEYS if key in place]
        for key in keys:
            self._add(
                path,
                f"EquipmentTags.{key}",
                "template-site-key",
                "A template holds for every device of its model, and this key is true of one "
                "site only. Move it to the instrument file.",
            )

    def _channel_unknown(self, file: str, key: str, name: str, below: Mapping[str, Any]) -> None:
        close = difflib.get_close_matches(name, list(below), n=1, cutoff=0.6)
        remedy = f'Did you mean "{close[0]}"?' if close else "Give its address, or remove it."
        self._add(
            file,
            key,
            "template-channel-unknown",
            f'The template has no channel "{printable(name)}", and no address is given here. '
            f"{remedy}",
        )

    def _unknown(self, file: str, name: str) -> None:
        known = sorted({*shipped_names(), *site_names(self.files.folder)})
        lower = {other.lower(): other for other in known}
        close = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.5)
        if close:
            remedy = f"Did you mean {' or '.join(lower[other] for other in close)}?"
        else:
            remedy = "`gatepost templates` lists them."
        self._add(
            file,
            "EquipmentTags.Template",
            "template-unknown",
            f'There is no template "{name}". {remedy}',
        )

    def _add(
        self, file: str, key: str, rule: str, message: str, severity: Severity = "error"
    ) -> None:
        self.findings.append(Finding(file, key, rule, message, severity))
