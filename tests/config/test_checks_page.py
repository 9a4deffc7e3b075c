"""docs/checks.md lists the rules of all findings that the sources can make, and no others."""

from __future__ import annotations

import ast
import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from config.check import CHECKS
from gateway.core.refusals import REFUSALS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "checks.md"
RULE = re.compile(r"[a-z]+(-[a-z0-9]+)+")
# Of the form of a rule's name, and none: what demands an output before the first good scan, and the
# words of receipts. A rule that was called like one of those would be missed on the page.
NO_RULES = {"start-up", *REFUSALS}
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ((?:error|warning)[^|]*) \| [A-Z`][^|]*[.] \|$")


def names_encoding(text: str) -> bool:
    """Such as utf-8: the same form, another meaning."""
    try:
        codecs.lookup(text)
    except LookupError:
        return False
    return True


def rules_in(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and RULE.fullmatch(text) and not names_encoding(text):
            yield text


def rules_of_the_sources() -> set[str]:
    parts = ("config", "drivers", "safety", "gateway")
    files = [file for part in parts for file in (ROOT / part).glob("*.py")]
    files.remove(ROOT / "config" / "units.py")  # its texts are names of units
    files += [f for f in (ROOT / "drivers").glob("*/*.py") if f.parent.name != "sim"]
    assert len(files) > 20
    sources = {file: file.read_text(encoding="utf-8") for file in files}
    return {
        rule
        for file, source in sources.items()
        if file.parent.name != "gateway" or "Finding(" in source  # its other texts are names too
        for rule in rules_in(source)
        if rule not in NO_RULES
    }


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
    source = 'x = {"a": ("new-rule", "latin-1")}\nFinding("f", "k", "other-rule2", "no rule")\n'
    assert set(rules_in(source)) == {"new-rule", "other-rule2"}
