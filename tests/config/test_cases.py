"""Every folder of tests/cases/config is a site with exactly the findings it expects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.check import CHECKS, check_site
from config.load import load_site

CASES = Path(__file__).parents[1] / "cases" / "config"
FOLDERS = sorted(path for path in CASES.iterdir() if path.is_dir())


@pytest.mark.parametrize("case", FOLDERS, ids=lambda path: path.name)
def test_a_site_has_exactly_the_expected_findings(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text())
    site, findings = load_site(case / "site")
    if site is not None:
        findings = sorted(findings + check_site(site))
    found = [(f.file, f.key, f.rule, f.severity) for f in findings]
    assert found == [(e["file"], e["key"], e["rule"], e["severity"]) for e in expected]
    for finding, wanted in zip(findings, expected, strict=True):
        assert wanted["says"] in finding.message
        assert finding.message.endswith((".", "?")), "a message is a sentence"
        assert str(finding).isprintable()
    errors = {e["rule"] for e in expected if e["severity"] == "error"}
    assert (site is None) == bool(errors - {rule for rule, _ in CHECKS})


def test_every_case_says_what_it_shows() -> None:
    assert len(FOLDERS) > 30
    for case in FOLDERS:
        assert (case / "README.md").read_text().strip().endswith("."), case.name
