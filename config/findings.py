"""A finding: one thing that is wrong in a site folder, and what to do about it.

Checks never stop at the first mistake. Every check returns a list of findings, and the caller
prints all of them at once (an engineer who mends one error per run mends ten in ten runs).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal

SUGGESTIONS_MAX: Final = 50
ALIKE_MAX: Final = 4  # warnings alike that are told one by one

_NUMBER: Final = re.compile(r"\d+")

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One mistake in a site folder.

    file      name relative to the site folder, e.g. ``Opto.json``
    key       path of the key in that file, e.g. ``Channels.Control_Valve.IOPoint``
    rule      short stable name of the check, e.g. ``address-shared``; documented in docs/checks.md
    message   what is wrong and the remedy, in one or two sentences
    severity  an ``error`` keeps the gateway from starting, a ``warning`` does not
    """

    file: str
    key: str
    rule: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        """One line for a terminal: file, key, rule, message."""
        return f"{self.file}: {self.key}: [{self.rule}] {self.message}"


class SiteError(Exception):
    """The site can't be used; carries every finding, not only the first."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        super().__init__("\n".join(str(finding) for finding in findings))


def folded(findings: Iterable[Finding]) -> list[Finding]:
    """Findings as people read them, in their order: of more than ALIKE_MAX warnings of one file
    that differ in numbers only, the first stands for all and names where some of the others are."""
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        text = _NUMBER.sub("0", finding.message) if finding.severity == "warning" else finding.key
        alike.setdefault((finding.file, finding.rule, text), []).append(finding)
    found = []
    for group in alike.values():
        if len(group) <= ALIKE_MAX or group[0].severity == "error":
            found += group
            continue
        keys = ", ".join(finding.key for finding in group[1:ALIKE_MAX])
        more = f" The same at {keys} and {len(group) - ALIKE_MAX} more."
        found.append(replace(group[0], message=group[0].message + more))
    return sorted(found)


def nearest(name: str, names: Iterable[str]) -> str:
    """A remedy for a mistyped name: the most similar one, or what there is."""
    there = list(names)
    folded = {known.lower(): known for known in there}
    close = get_close_matches(name.lower(), folded, n=1)
    if close:
        return f'Did you mean "{folded[close[0]]}"?'
    return f"There are: {', '.join(there[:8]) or 'none'}."


class Suggestions:
    """Remedies for mistyped names: the nearest one for as many as somebody reads.

    A search takes time in proportion to the names there are. A rename in a large site makes
    thousands of findings, and a check still has to end in seconds.
    """

    def __init__(self) -> None:
        self._left = SUGGESTIONS_MAX

    def nearest(self, name: str, names: Collection[str]) -> str:
        """As the function of this name; without a search once SUGGESTIONS_MAX were made."""
        self._left -= 1
        if self._left >= 0:
            return nearest(name, names)
        return f"There are {len(names)} names; the first findings suggest the nearest ones."


def printable(text: str) -> str:
    """`text` with everything that a terminal can't show as an escape, and of bounded length."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= 120 else shown[:117] + "..."
