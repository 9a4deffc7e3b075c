"""A finding: one thing that is wrong in a site folder, and what to do about it.

Checks never stop at the first mistake. Every check returns a list of findings, and the caller
prints all of them at once (an engineer who mends one error per run mends ten in ten runs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
