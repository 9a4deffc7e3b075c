"""The examples on the pages of the drivers are instrument files without findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.model import InstrumentFile
from drivers.registry import check_instrument, protocol_of
from tests.docs.reading import split_blocks
from tests.drivers.instruments import instrument

PAGES = Path(__file__).parents[2] / "docs" / "drivers"
EXAMPLES = [
    pytest.param(text, id=f"{page.name}:{line}")
    for page in sorted(PAGES.glob("*.md"))
    for language, line, text in split_blocks(page.read_text(encoding="utf-8"))[1]
    if language == "json" and '"EquipmentTags"' in text and '"Template"' not in text
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_has_no_findings(text: str) -> None:
    file = InstrumentFile.model_validate_json(text)
    protocol = protocol_of(file.EquipmentTags.Communication)
    assert protocol is not None
    tags = json.loads(text)["EquipmentTags"]
    channels = {name: c.model_dump(exclude_unset=True) for name, c in file.Channels.items()}
    made = instrument(channels, **tags)
    assert check_instrument(made) == []
    assert protocol.plan(made)


def test_there_are_examples() -> None:
    pages = {example.id.split(":")[0] for example in EXAMPLES if example.id}
    assert {"c37118.md", "ping.md", "postgresql.md"} <= pages
