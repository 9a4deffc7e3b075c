"""Cross-checks of ``Links`` in ``link.json``: what the format of each one asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Final

from config.broker import broker_of
from config.filters import filter_fault, is_wild, levels_of
from config.findings import Finding, Severity, printable
from config.link import NODE, LinkEntry, WithLink
from config.site import Site

PLACES: Final = ("{site}", "{equipment}", "{channel}")  # what a Topic may have in it

# Keys that only some formats read.
_READ_BY: Final[dict[str, tuple[str, ...]]] = {
    "Points": ("json", "opcua", "sparkplug"),
    "Topic": ("json",),
    "Group": ("opcua", "sparkplug"),
    "Node": ("sparkplug",),
    "PrimaryHost": ("sparkplug",),
}


def _finding(key: str, rule: str, message: str, severity: Severity = "error") -> Finding:
    return Finding("link.json", f"Links.{key}", rule, message, severity)


def _topic_fault(template: str) -> str:
    """Everything that makes a text no template of a topic; empty where it is one."""
    bare = template
    for place in PLACES:
        bare = bare.replace(place, "x")
    faults = []
    if "{" in bare or "}" in bare:
        faults.append(f"Only {', '.join(PLACES)} are filled in.")
    if is_wild(levels_of(bare)):
        faults.append("Messages go to a topic, and a topic has no wildcards.")
    elif template.startswith("$"):
        faults.append("Topics that begin with $ belong to the broker.")
    elif fault := filter_fault(bare):
        faults.append(fault)
    return " ".join(faults)


def _form_topic(site: WithLink) -> Iterator[Finding]:
    for name, entry in site.link.Links.items():
        fault = _topic_fault(entry.Topic)
        if fault:
            yield _finding(f"{name}.Topic", "form-topic", f'"{printable(entry.Topic)}": {fault}')


def _form_name(site: WithLink) -> Iterator[Finding]:
    for name, entry in site.link.Links.items():
        for key in ("Group", "Node", "PrimaryHost"):
            text = getattr(entry, key)
            if text is not None and (filter_fault(text) or re.search(r"[+#/]", text)):
                message = f'"{printable(text)}" is one level of a topic: it is not empty, and has'
                message += " no +, # and / and no control characters."
                yield _finding(f"{name}.{key}", "form-name", message)


def _form_points(site: Site) -> Iterator[Finding]:
    tags = [point.tag for point in site.points]
    for name, entry in site.link.Links.items():
        for position, pattern in enumerate(entry.Points):
            if not any(fnmatchcase(tag, pattern) for tag in tags):
                message = f'"{printable(pattern)}" fits no point. Write tags, such as '
                message += '"Meter.Power", or patterns of them, such as "Meter.*".'
                yield _finding(f"{name}.Points[{position}]", "form-points", message)


def _form_ack(site: Site) -> Iterator[Finding]:
    for name, entry in site.link.Links.items():
        if entry.Ack == "historian" and entry.Format != "gatepost":
            message = f'Nobody confirms what is sent as {entry.Format}: write "broker", which '
            message += "lets go of a frame as soon as the broker has it."
            yield _finding(f"{name}.Ack", "form-ack", message)


def _form_key(site: Site) -> Iterator[Finding]:
    for name, entry in site.link.Links.items():
        for key, formats in _READ_BY.items():
            if key in entry.model_fields_set and entry.Format not in formats:
                message = f"The format {entry.Format} does not read {key}."
                yield _finding(f"{name}.{key}", "form-key", message, "warning")


def _identity(site: Site, entry: LinkEntry) -> tuple[object, str, str]:
    return (broker_of(entry.URL), (entry.Group or site.name).lower(), (entry.Node or NODE).lower())


def _form_twin(site: Site) -> Iterator[Finding]:
    nodes: dict[tuple[object, str, str], str] = {}
    for name, entry in site.link.Links.items():
        if not entry.Active or entry.Format != "sparkplug":
            continue
        twin = nodes.setdefault(_identity(site, entry), name)
        if twin != name:
            message = f"Links.{twin} is the same Sparkplug node at the same broker. Give one of "
            yield _finding(f"{name}.Node", "form-twin", f"{message}them another Node or Group.")


# Rule -> check. The order is the order of docs/checks.md.
FORM_CHECKS: Final[tuple[tuple[str, Callable[[Site], Iterator[Finding]]], ...]] = (
    ("form-topic", _form_topic),
    ("form-name", _form_name),
    ("form-points", _form_points),
    ("form-ack", _form_ack),
    ("form-key", _form_key),
    ("form-twin", _form_twin),
)


# Those that look at one key each, whatever else is wrong in the file.
FORM_KEY_CHECKS: Final[tuple[Callable[[WithLink], Iterator[Finding]], ...]] = (
    _form_topic,
    _form_name,
)
