"""Cross-checks of ``Bridges`` in ``link.json``: topics, and that no message can go round."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from config.bridges import Line, Tangled, lines_of, loops, overlaps
from config.broker import broker_of
from config.filters import common, example, filter_fault, is_wild, levels_of
from config.findings import Finding, Severity, printable
from config.link import BridgeTopic
from config.model import REQUEST_TOPIC
from config.site import Site

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_REQUESTS: Final = levels_of(f"{REQUEST_TOPIC}#")


def _finding(key: str, rule: str, message: str, severity: Severity = "error") -> Finding:
    return Finding("link.json", key, rule, message, severity)


def _topic_faults(topic: BridgeTopic) -> Iterator[tuple[str, str]]:
    """(key, message) of what is wrong with one line."""
    fault = filter_fault(topic.From)
    shared = topic.From.startswith("$share/")
    if fault:
        yield "From", fault
    elif shared:
        yield "From", "Shared subscriptions spread messages over clients; a bridge takes them all."
    if topic.To and filter_fault(topic.To):
        yield "To", filter_fault(topic.To)
    elif is_wild(levels_of(topic.To)):
        yield "To", "What stands in front of the first wildcard is replaced; To has none itself."
    elif not shared and (topic.To or topic.From).startswith("$"):
        yield "To", "Topics that begin with $ belong to the broker; give To another front."


def _lines(site: Site) -> list[Line]:
    """All lines of all bridges; none where one is not in order, which is a finding of its own."""
    for entry in site.link.Bridges.values():
        if any(any(_topic_faults(topic)) for topic in entry.Topics):
            return []
    return list(chain.from_iterable(lines_of(*item) for item in site.link.Bridges.items()))


def _name(site: Site) -> Iterator[Finding]:
    for name in site.link.Bridges:
        if not _NAME.fullmatch(name):
            yield _finding(
                "Bridges",
                "bridge-name",
                f'"{printable(name)}" is no name of a bridge, which goes into the client id '
                "and into tags. Use letters, digits and _, at most 32, beginning with a letter.",
            )


def _topic(site: Site) -> Iterator[Finding]:
    for name, entry in site.link.Bridges.items():
        for position, topic in enumerate(entry.Topics):
            for key, message in _topic_faults(topic):
                yield _finding(
                    f"Bridges.{name}.Topics[{position}].{key}",
                    "bridge-topic",
                    f'"{printable(getattr(topic, key))}": {message}',
                )


def _loop(site: Site) -> Iterator[Finding]:
    try:
        found = loops(_lines(site))
    except Tangled:
        text = "There are too many ways through the tables to prove that no message goes round."
        yield _finding("Bridges", "bridge-loop", f"{text} Use fewer lines, or fewer wildcards.")
        return
    for loop in found:
        first, last = loop.first.place, loop.last.place
        how = (
            f"Its own messages come back to it: {last} puts them"
            if first == last
            else f"A message that it took comes back to it, because {last} puts one"
        )
        yield _finding(
            first,
            "bridge-loop",
            f'{how} on "{loop.topic}" of the broker that it takes it from. Let one of the two '
            "lines take fewer topics, or give it another To.",
        )


def _overlap(site: Site) -> Iterator[Finding]:
    for one, other, topic in overlaps(_lines(site)):
        yield _finding(
            other.place,
            "bridge-overlap",
            f'A message on "{topic}" is taken by this line and by {one.place}, and would go on '
            "twice. Let one of them take fewer topics.",
        )


def _requests(site: Site) -> Iterator[Finding]:
    bus = site.link.SiteBus
    if bus is None or not bus.Writes:
        return
    for line in _lines(site):
        shared = common(line.image(line.taken), _REQUESTS)
        if shared is not None and line.destination == broker_of(bus.URL):
            yield _finding(
                line.place,
                "bridge-requests",
                f'Requests from the other broker, such as "{example(shared)}", reach the site bus, '
                "where nobody signs them. Use signed commands for what comes from outside.",
                "warning",
            )


# Rule -> check. The order is the order of docs/checks.md.
BRIDGE_CHECKS: Final[tuple[tuple[str, Callable[[Site], Iterator[Finding]]], ...]] = (
    ("bridge-name", _name),
    ("bridge-topic", _topic),
    ("bridge-loop", _loop),
    ("bridge-overlap", _overlap),
    ("bridge-requests", _requests),
)
