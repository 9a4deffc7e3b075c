"""The shipped JSON Schema is made from the models and current."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config import schema
from config.model import Keys


def test_the_shipped_schema_is_current() -> None:
    shipped = schema.SCHEMA_FILE.read_text(encoding="utf-8")
    assert shipped == schema.schema_text(), "run: python -m config.schema"


def test_the_schema_has_a_definition_for_each_kind_of_file() -> None:
    made = schema.site_schema()
    for _, kind in schema.FILE_KINDS:
        definition = made["$defs"][kind.__name__]
        assert definition["additionalProperties"] is False
        assert {"$ref": f"#/$defs/{kind.__name__}"} in made["anyOf"]
    assert len(made["anyOf"]) == len(schema.FILE_KINDS)


def test_keys_are_spelled_as_in_the_files() -> None:
    definitions = schema.site_schema()["$defs"]
    assert "Read/Write" in definitions["MethodPayload"]["properties"]
    assert "IP Address" in definitions["PersonalityTags"]["properties"]
    assert definitions["EquipmentTags"]["required"] == ["EquipmentName"]
    ways = [{"required": ["Communication"]}, {"required": ["Template"]}]
    assert definitions["EquipmentTags"]["anyOf"] == ways


def test_every_reference_leads_to_a_definition() -> None:
    made = schema.site_schema()
    text = json.dumps(made)
    referred = {part.partition('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert referred <= set(made["$defs"])
    assert all(issubclass(kind, Keys) for _, kind in schema.FILE_KINDS)


def test_writing_it_gives_the_same_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SCHEMA_FILE", tmp_path / "schema.json")
    assert schema.main() == 0
    first = (tmp_path / "schema.json").read_bytes()
    assert schema.main() == 0
    assert (tmp_path / "schema.json").read_bytes() == first == schema.schema_text().encode()
