"""docs/checks.md lists the rules of all findings that the sources can make, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from config.check import CHECKS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "checks.md"
RULE = re.compile(r"[a-z]+(-[a-z0-9]+)+")
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ((?:error|warning)[^|]*) \| [A-Z`][^|]*[.] \|$")

# Texts of the same form that name something else.
OTHER_TEXTS = {"utf-8", "utf-8-sig"}


def rules_in(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and RULE.fullmatch(text) and text not in OTHER_TEXTS:
            yield text


def rules_of_the_sources() -> set[str]:
    files = [
        file for part in ("config", "drivers", "safety") for file in (ROOT / part).glob("*.py")
    ]
    assert len(files) > 20
    return {rule for file in files for rule in rules_in(file.read_text(encoding="utf-8"))}


def rows() -> list[tuple[str, str]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        if line.startswith("| `"):
            match = ROW.match(line)
            assert match, f"not of the form of the table: {line}"
            found.append((match[1], match[2]))
    return found


def test_the_page_has_every_rule_of_the_sources_and_no_other() -> None:
    documented = [rule for rule, _ in rows()]
    assert len(documented) == len(set(documented)), "a rule stands twice"
    assert sorted(documented) == sorted(rules_of_the_sources())


def test_every_cross_check_is_in_the_page() -> None:
    assert {rule for rule, _ in CHECKS} <= {rule for rule, _ in rows()}


def test_a_rule_is_found_wherever_it_stands_in_a_source() -> None:
    source = 'x = {"a": ("new-rule", 1)}\nFinding("f", "k", "other-rule2", "no rule here")\n'
    assert set(rules_in(source)) == {"new-rule", "other-rule2"}
