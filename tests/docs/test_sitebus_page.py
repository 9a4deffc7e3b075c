"""The examples of docs/sitebus.md load, and have no loops."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

from config.bridges import lines_of, loops, overlaps
from config.link import LinkFile
from sync.bridge.bridge_lane import COUNTS, GIVE_UP_TRIES, HELD_BYTES_MAX, HELD_MAX
from sync.bus.relay import WRITE_WAIT_S, WRITES_BURST, WRITES_OPEN_MAX, WRITES_PER_S
from tests.drivers.instruments import json_examples

PAGE = Path(__file__).parents[2] / "docs" / "sitebus.md"


def test_the_examples_are_right() -> None:
    examples = [LinkFile.model_validate(json.loads(text)) for text in json_examples(PAGE)]
    assert any(example.SiteBus for example in examples)
    bridges = [item for example in examples for item in example.Bridges.items()]
    assert bridges
    lines = list(chain.from_iterable(lines_of(*item) for item in bridges))
    assert not loops(lines)
    assert not overlaps(lines)


def test_the_bounds_on_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"up to {HELD_MAX:,} messages or {HELD_BYTES_MAX // 10**6} MB" in text
    assert f"At most {WRITES_PER_S} channels a second on average, {WRITES_BURST} at once" in text
    assert f"and {WRITES_OPEN_MAX} that wait" in text
    assert f"after {WRITE_WAIT_S:g} s" in text
    assert f"after {GIVE_UP_TRIES} sessions" in text
    assert all(f"`{count}`" in text for count in COUNTS)
