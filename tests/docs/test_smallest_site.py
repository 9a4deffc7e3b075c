"""The smallest site that docs/configuration.md shows is complete and has no finding."""

from __future__ import annotations

import re
from pathlib import Path

from config.load import require_site
from gateway.cli.check import all_findings
from tests.tidy import repository

_FILE = re.compile(r"^`([\w-]+\.json)`[^\n]*\n\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown() -> dict[str, str]:
    """The files of the section, by name."""
    text = repository.text("docs/configuration.md") or ""
    section = text.split("\n## Smallest site\n")[1].split("\n## ")[0]
    assert section.count("```json") == len(_FILE.findall(section)), "a block without a file's name"
    return dict(_FILE.findall(section))


def written(folder: Path) -> Path:
    for name, content in shown().items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_the_files_as_shown_have_no_finding(tmp_path: Path) -> None:
    assert all_findings(written(tmp_path)) == []


def test_they_hold_an_instrument_with_outputs_an_alarm_a_trip_and_an_emergency_stop(
    tmp_path: Path,
) -> None:
    site = require_site(written(tmp_path))
    (instrument,) = site.instruments.values()
    assert len(instrument.channels) == 3
    assert len(site.personality.alarms) == 1
    assert [name.rpartition("/")[2] for name in site.personality.controls] == ["E_Stop", "OverTemp"]
    assert "link.json" in shown()


def test_a_file_less_is_found(tmp_path: Path) -> None:
    (written(tmp_path) / "plant_AlarmStates.json").unlink()
    assert [finding.rule for finding in all_findings(tmp_path)] == ["file-missing"]
