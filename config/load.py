"""A folder of JSON files to a `Site`, or to everything that is wrong with it.

Files are read once, in this order: ``*-Config.json``, the instruments that it lists, the
personality and its parts, the database file, ``link.json``. A mistake in one file does not keep
the others from being read, so one run shows all of them.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from config.build import PointBuilder, period_ns
from config.check_form import FORM_KEY_CHECKS
from config.check_link import LINK_KEY_CHECKS
from config.findings import Finding, Severity, SiteError, printable
from config.link import LinkFile
from config.model import (
    AlarmStatesFile,
    ControlStatesFile,
    DatabaseFile,
    InstrumentFile,
    PersonalityFile,
    SystemConfig,
    SystemStatesFile,
    TemplateFile,
)
from config.points import RESERVED_EQUIPMENT, rule_tag
from config.read import Files
from config.site import Instrument, Personality, ScanClass, Site
from config.template import Templates, merged, template_of
from config.validate import sound_part, validate

LINK_FILE: Final = "link.json"
CONFIG_SUFFIX: Final = "-Config.json"

# A tag is `Equipment.Channel`; it stands in rules, topics, OPC UA nodes and SQL unquoted.
_NAME: Final = re.compile(r"\w[\w-]{0,62}")
# Rules are named as the seed does, `Alarms/Cell_OverTemp`.
_RULE_NAME: Final = re.compile(r"\w[\w-]{0,62}(/\w[\w-]{0,62})*")

Model = TypeVar("Model", bound=BaseModel)


def load_site(folder: Path) -> tuple[Site | None, list[Finding]]:
    """Read a site folder; the site is None where a finding is an error.

    Never raises on what the folder holds. Findings are sorted by file and key.
    """
    loader = _Loader(folder)
    site = loader.site()
    findings = loader.findings + loader.files.findings + loader.templates.findings
    if any(finding.severity == "error" for finding in findings):
        site = None
        # Of a site that loads, config/check.py says these.
        checks = (*LINK_KEY_CHECKS, *FORM_KEY_CHECKS)
        findings += [finding for check in checks for finding in check(loader)]
    return site, sorted(set(findings))


def require_site(folder: Path) -> Site:
    """Read a site folder that must be right. Raises SiteError with all findings that are errors."""
    site, findings = load_site(folder)
    if site is None:
        raise SiteError([finding for finding in findings if finding.severity == "error"])
    return site


class _Loader:
    """One load of one folder; collects findings."""

    def __init__(self, folder: Path) -> None:
        self.files = Files(folder)
        self.templates = Templates(self.files)
        self.findings: list[Finding] = []
        self.names: list[str] = []  # of everything in the folder
        self.link = LinkFile()  # of a file with mistakes, what is left without them
        self._rule_tags: dict[str, str] = {}  # tag of a rule's point -> name of the rule

    def site(self) -> Site | None:
        config_name = self._config_name()
        if config_name is None:
            return None
        raw = self.files.json(config_name)
        system = None if raw is None else self._model(config_name, raw, SystemConfig)
        link = self._link()
        # The files are found in the raw value, so that a mistake in the root hides none of them.
        contents = self._instruments(config_name, raw)
        personality = self._personality(config_name, _text(raw, "SystemTags", "Personality"))
        self._database(config_name, "SystemTags.Database", _text(raw, "SystemTags", "Database"))
        if system is None:
            return None
        classes = {
            name: ScanClass(name, period_ns(entry)) for name, entry in system.DataSampling.items()
        }
        if not classes:
            self._add(
                config_name,
                "DataSampling",
                "scan-class-none",
                "No scan class is declared, so nothing could be polled. Add one, e.g. "
                '"LowSpeed": {"FilterKey": "LowSpeed", "Rate": 30}.',
            )
        if personality is None or link is None or not classes:
            return None
        builder = PointBuilder(system.DataSampling, classes)
        instruments: dict[str, Instrument] = {}
        for file, content in contents:
            instrument = builder.instrument(file, content)
            instruments[instrument.name] = instrument
        links = [name for name, entry in link.Links.items() if entry.Active]
        builder.gateway(links, link.Bridges, bus=link.SiteBus is not None)
        builder.rules(personality)
        self.findings += builder.findings
        return Site(
            name=link.Site or topic_name(system.SystemTags.SystemName),
            folder=self.files.folder,
            system=system,
            instruments=instruments,
            personality=personality,
            link=link,
            scan_classes=classes,
            scan_period_ns=period_ns(system.Scan),
            points=tuple(builder.points),
            hash=files_hash(self.files.used),
        )

    # ------------------------------------------------------------ files

    def _config_name(self) -> str | None:
        folder = self.files.folder
        shown = printable(folder.name or str(folder))
        try:
            self.names = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self._add(
                shown,
                "",
                "folder-unreadable",
                f"The site folder can't be read: {reason}. Give the path of a folder.",
            )
            return None
        found = [name for name in self.names if name.endswith(CONFIG_SUFFIX)]
        if not found:
            self._add(
                shown,
                "",
                "config-missing",
                f"The folder holds no file named <name>{CONFIG_SUFFIX}, which is the root of a "
                "site. Add it, or give another folder.",
            )
            return None
        if len(found) > 1:
            self._add(
                shown,
                "",
                "config-several",
                f"Several files could be the root of the site: {', '.join(found)}. Keep one.",
            )
            return None
        return found[0]

    def _file(self, name: str, model: type[Model]) -> Model | None:
        value = self.files.json(name)
        return None if value is None else self._model(name, value, model)

    def _model(self, name: str, value: Any, model: type[Model]) -> Model | None:
        content, findings = validate(name, value, model)
        self.findings += findings
        return content

    def _named(
        self,
        file: str,
        key: str,
        name: str,
        model: type[Model],
        severity: Severity = "error",
    ) -> Model | None:
        """The content of the file that `key` of `file` names; findings where that fails."""
        value = self._named_json(file, key, name, severity)
        return None if value is None else self._model(name, value, model)

    def _named_json(
        self, file: str, key: str, name: str, severity: Severity = "error"
    ) -> Any | None:
        if self.files.escapes(name):
            self._add(
                file,
                key,
                "path-escape",
                f'"{printable(name)}" is no name of a file inside the site folder. Put the file '
                "there and write its name without a path.",
            )
            return None
        if not self.files.exists(name):
            self._add(file, key, "file-missing", self._missing(name), severity)
            return None
        return self.files.json(name)

    def _missing(self, name: str) -> str:
        there = [other for other in self.names if other.lower().endswith(".json")]
        # The ends of names say what a file is for, e.g. `_Database.json`; a name that is alike in
        # front only would be another kind of file.
        ends = {other.rpartition("_")[2]: other for other in there}
        close = difflib.get_close_matches(name.rpartition("_")[2], list(ends), n=1, cutoff=0.8)
        other_case = [other for other in there if other.lower() == name.lower()]
        guess = (other_case or [ends[end] for end in close] or [""])[0]
        remedy = f'Did you mean "{guess}"?' if guess else "Add it, or correct the name."
        return f'There is no file "{printable(name)}" in the site folder. {remedy}'

    def _link(self) -> LinkFile | None:
        if not self.files.stands(LINK_FILE):
            return LinkFile()
        raw = self.files.json(LINK_FILE)
        link = None if raw is None else self._model(LINK_FILE, raw, LinkFile)
        self.link = link or sound_part(raw, LinkFile) or self.link
        if self.link.Site is not None and not _NAME.fullmatch(self.link.Site):
            self._bad_name(LINK_FILE, "Site", self.link.Site)
        return link

    def _database(self, file: str, key: str, name: str | None) -> None:
        if name is not None:
            # Nothing at the edge needs the database, so its absence does not stop the gateway.
            content = self._named(file, key, name, DatabaseFile, "warning")
            if content is not None and _holds_password(content.DatabaseDetails.Server):
                self._add(
                    name,
                    "DatabaseDetails.Server",
                    "secret-inside",
                    "The address holds a password, and site folders are copied and versioned. "
                    "Leave the password out of it.",
                    "warning",
                )

    # ------------------------------------------------------------ instruments

    def _instruments(self, config_name: str, raw: Any) -> list[tuple[str, InstrumentFile]]:
        contents: list[tuple[str, InstrumentFile]] = []
        first_file: dict[str, str] = {}
        for entry_name in _object(raw, "Equipment"):
            file = _text(raw, "Equipment", entry_name, "Config")
            if file is None or _object(raw, "Equipment", entry_name).get("Active") is False:
                continue
            key = f"Equipment.{printable(entry_name)}"
            content = self._instrument(config_name, f"{key}.Config", file)
            if content is None:
                continue
            name = content.EquipmentTags.EquipmentName
            self._instrument_names(file, content)
            if name != entry_name:
                self._add(
                    file,
                    "EquipmentTags.EquipmentName",
                    "equipment-mismatch",
                    f'The name is "{printable(name)}" here and "{printable(entry_name)}" in the '
                    f"equipment list of {config_name}. Use one name in both.",
                )
            if name in first_file:
                self._add(
                    file,
                    "EquipmentTags.EquipmentName",
                    "equipment-duplicate",
                    f'"{printable(name)}" is the name of {first_file[name]} already. '
                    "Give each instrument its own name and file.",
                )
                continue
            first_file[name] = file
            contents.append((file, content))
        return contents

    def _instrument(self, config_name: str, key: str, file: str) -> InstrumentFile | None:
        """The content of an instrument file, joined with the template that it names."""
        raw = self._named_json(config_name, key, file)
        name = template_of(raw)
        if raw is not None and name is not None:
            path, template = self.templates.content(file, name)
            if template is None or self._model(path, template, TemplateFile) is None:
                return None
            self.templates.check_template(path, template)
            raw = merged(template, self.templates.checked(file, template, raw))
        return None if raw is None else self._model(file, raw, InstrumentFile)

    def _instrument_names(self, file: str, content: InstrumentFile) -> None:
        name = content.EquipmentTags.EquipmentName
        key = "EquipmentTags.EquipmentName"
        if not _NAME.fullmatch(name):
            self._bad_name(file, key, name)
        if name in RESERVED_EQUIPMENT:
            self._add(
                file,
                key,
                "name-reserved",
                f'"{name}" is the name of points of the gateway itself '
                f"({', '.join(RESERVED_EQUIPMENT)}). Choose another one.",
            )
        for channel in content.Channels:
            if not _NAME.fullmatch(channel):
                self._bad_name(file, f"Channels.{printable(channel)}", channel)

    # ------------------------------------------------------------ personality

    def _personality(self, config_name: str, name: str | None) -> Personality | None:
        if name is None:
            return Personality({}, {}, {}, {}, "", "", "")
        raw = self._named_json(config_name, "SystemTags.Personality", name)
        if raw is None:
            return None
        self._model(name, raw, PersonalityFile)
        alarms_file, alarms = self._part(name, raw, "AlarmStates", AlarmStatesFile)
        states_file, states = self._part(name, raw, "SystemStates", SystemStatesFile)
        controls_file, controls = self._part(name, raw, "ControlStates", ControlStatesFile)
        self._database(name, "Components.Database", _text(raw, "Components", "Database"))
        personality = Personality(
            alarms=_active(alarms.AlarmStates) if alarms else {},
            states=_active(states.SystemStates) if states else {},
            controls=_active(controls.Automatic_Controls) if controls else {},
            methods=controls.Control_Methods if controls else {},
            alarms_file=alarms_file,
            states_file=states_file,
            controls_file=controls_file,
            machines=_active(controls.Control_States) if controls else {},
            functions=_active(controls.Grid_Functions) if controls else {},
        )
        self._rule_names("alarm", alarms_file, "AlarmStates", personality.alarms)
        self._rule_names("state", states_file, "SystemStates", personality.states)
        self._rule_names("control", controls_file, "Automatic_Controls", personality.controls)
        self._rule_names("machine", controls_file, "Control_States", personality.machines)
        self._rule_names("function", controls_file, "Grid_Functions", personality.functions)
        return personality

    def _part(self, file: str, raw: Any, key: str, model: type[Model]) -> tuple[str, Model | None]:
        """The name of a personality's part ("" where it has none), and its content."""
        name = _text(raw, "Components", key)
        if name is None:
            return "", None
        return name, self._named(file, f"Components.{key}", name, model)

    def _rule_names(self, kind: str, file: str, section: str, rules: Mapping[str, Any]) -> None:
        first = self._rule_tags
        for name in rules:
            key = f"{section}.{printable(name)}"
            if not _RULE_NAME.fullmatch(name):
                self._bad_name(file, key, name)
            tag = rule_tag(kind, name)
            if tag in first:
                self._add(
                    file,
                    key,
                    "tag-duplicate",
                    f'The rules "{printable(first[tag])}" and "{printable(name)}" would share '
                    f"the point {printable(tag)}. Rename one.",
                )
            first[tag] = name

    # ------------------------------------------------------------ findings

    def _bad_name(self, file: str, key: str, name: str) -> None:
        self._add(
            file,
            key,
            "name-invalid",
            f'"{printable(name)}" can\'t be a name: use 1 to 63 letters, digits, "_" and "-", '
            "starting with a letter or digit (rules may have folders: Alarms/High_Flow).",
        )

    def _add(
        self, file: str, key: str, rule: str, message: str, severity: Severity = "error"
    ) -> None:
        self.findings.append(Finding(printable(file), key, rule, message, severity))


Rules = TypeVar("Rules")


def _active(rules: Mapping[str, Rules]) -> dict[str, Rules]:
    return {name: rule for name, rule in rules.items() if getattr(rule, "Active", True)}


def _object(raw: Any, *keys: str) -> dict[str, Any]:
    """The object at a path of keys; an empty one where the path leads to anything else."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw if isinstance(raw, dict) else {}


def _text(raw: Any, *keys: str) -> str | None:
    """The text at a path of keys; None where the path leads to anything else."""
    value = _object(raw, *keys[:-1]).get(keys[-1])
    return value if isinstance(value, str) else None


def _holds_password(url: str) -> bool:
    user, at, _ = url.partition("://")[2].rpartition("@")
    return bool(at) and ":" in user


def topic_name(system_name: str) -> str:
    """The site's name in topics: lower case, without what topics can't hold."""
    return re.sub(r"[^\w-]+", "-", system_name.lower()).strip("-") or "site"


def files_hash(files: Mapping[str, bytes]) -> str:
    """The configuration's hash: SHA-256 over sorted names and contents, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(files):
        # Lengths keep two files from trading bytes at their border.
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()[:16]
