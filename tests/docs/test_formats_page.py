"""docs/formats.md shows what the forms really send."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from config.check import check_site
from config.load import load_site
from config.points import POINT
from config.status import STATUS_ROWS
from gateway.core.clock import ManualClock
from gateway.core.records import EVENT_KINDS, Batch, Event, Gap
from sync import wire
from sync.forms import json_form, pubsub_meta, sparkplug, sparkplug_metrics
from sync.forms.forms import Publication
from sync.forms.pubsub_form import PubSubForm
from sync.link.latest import Latest
from tests.config.building import mini_files, write_site
from tests.sync.test_json_form import PLANT, T0_NS, form, rows, stored
from tests.tidy import repository

PAGE = repository.text("docs/formats.md") or ""
BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
EPOCH = 1_763_700_000_000


def payloads(out: list[Publication]) -> set[str]:
    return {publication.payload.decode() for publication in out}


def test_the_example_is_a_link_without_findings(tmp_path: Path) -> None:
    files = mini_files() | {"link.json": json.loads(BLOCKS[0])}
    site, findings = load_site(write_site(tmp_path, files))
    assert site is not None
    assert findings == []
    rules = {finding.rule for finding in check_site(site)}
    assert rules <= {"password-file-missing"}  # of the example's machine


def test_every_message_shown_is_one_that_is_sent() -> None:
    made = form()
    plant = replace(PLANT, hash="5f3a9c", epoch=EPOCH, points=PLANT.points[:2])
    out = [*made.born("5f3a9c", wire.encode_birth(plant), current=True)]
    made._latest.born(plant, np.zeros(3, dtype=POINT))
    out += made.due()
    records = rows((7, 1, 0, 812.3, 123_456_789), (8, 2, 0, 1.0, 123_456_789)).records
    body = {"rule": "Stack_High", "level": "High", "tag": "Stack.Temperature"}
    event, gap = Event(9, T0_NS + 5, "alarm", body), Gap(10, 14, "store over its quota")
    batch = Batch(EPOCH, 7, 14, "5f3a9c", records, (event,), (gap,))
    out += made.frame(stored(batch), live=True)
    shown = {line for block in BLOCKS[1:-1] for line in block.splitlines()}
    assert shown == payloads(out)


def test_the_message_of_opc_ua_is_one_that_is_sent() -> None:
    made = PubSubForm("lab", Latest(), ManualClock(), client_id="x", group="gatepost", points=["*"])
    version_ns = (817_000_000 + pubsub_meta.EPOCH_2000_S) * 10**9
    plant = replace(PLANT, hash="5f3a9c", epoch=EPOCH, points=PLANT.points[:2], utc_ns=version_ns)
    made.born("5f3a9c", wire.encode_birth(plant), current=True)
    made._sequences[21827] = 6
    batch = Batch(EPOCH, 7, 7, "5f3a9c", rows((7, 1, 0, 812.3, 123_456_789)).records)
    (sent,) = made.frame(stored(batch), live=True)

    def fixed(text: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(text) | {"MessageId": ""}
        for message in found["Messages"]:  # type: ignore[attr-defined]
            message["Timestamp"] = ""
        return found

    assert fixed(BLOCKS[-1]) == fixed(sent.payload.decode())


def test_kinds_limits_and_qualities_are_those_of_the_program() -> None:
    for kind in EVENT_KINDS:
        assert f"`{kind}`" in PAGE
    assert f"at most {json_form.VALUES_MAX} values" in PAGE
    assert f"above {json_form.POINTS_MAX} points" in PAGE
    assert f"at most {sparkplug_metrics.METRICS_MAX:,} metrics" in PAGE
    assert f"{sparkplug.BIRTH_BYTES_WARNED:,} bytes" in PAGE
    assert f"{sparkplug_metrics.TEXT_BYTES_MAX:,} bytes of texts" in PAGE
    assert f"{sparkplug.REBIRTH_BYTES_PER_S:,} bytes a second" in PAGE
    table = {
        r[0]: r[1] for r in re.findall(r"^\| (good|uncertain|bad) \| (\d+)", PAGE, re.MULTILINE)
    }
    for row in STATUS_ROWS:
        word = "good" if row.code < 1 << 30 else "uncertain" if row.code < 1 << 31 else "bad"
        assert sparkplug_metrics.quality_of(row.code) == int(table[word]), row.name
