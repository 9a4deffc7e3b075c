"""docs/commands.md lists every code that a receipt can have, with its meaning."""

from __future__ import annotations

from gateway.core.refusals import REFUSALS
from tests.tidy.repository import ROOT


def test_every_code_of_a_refusal_stands_on_the_page() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    section = text.partition("## Codes of refusals")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if "| `" in line]
    assert {code.strip("`"): meaning for code, meaning in rows} == REFUSALS
