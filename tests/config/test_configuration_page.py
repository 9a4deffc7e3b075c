"""docs/configuration.md names every key with its true default and an example that is valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from config import command_keys, functions, link, model, opcua, states
from config.schema import FILE_KINDS

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
BASES = {"Keys"}


def sections() -> dict[str, dict[str, tuple[str, str]]]:
    """Model name -> key -> (default, example), as the page has them."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    rows: dict[str, tuple[str, str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("### `"):
            rows = found.setdefault(line.split("`")[1], {})
        elif line.startswith("| `") and found:  # the tables above the first model are others
            key, default, _unit, _meaning, example = (c.strip() for c in line.split("|")[1:-1])
            assert key not in rows, f"{key} stands twice in one table"
            rows[key.strip("`")] = (default, example.removeprefix("`").removesuffix("`"))
    return found


def _every() -> dict[str, Any]:
    modules = (model, states, link, opcua, command_keys)
    return {name: item for module in modules for name, item in vars(module).items()}


def models() -> dict[str, type[BaseModel]]:
    return {
        name: item
        for name, item in _every().items()
        if isinstance(item, type)
        and issubclass(item, model.Keys)
        and not name.startswith("_")
        and name not in BASES
        and item.__module__ != functions.__name__  # docs/grid.md has them
    }


def own_fields(item: type[BaseModel]) -> dict[str, Any]:
    of_parent = item is not model.EquipmentTags and issubclass(item, model.EquipmentTags)
    if of_parent or (item is not link.BrokerConnection and issubclass(item, link.BrokerConnection)):
        return {
            key: item.model_fields[key] for key in item.__annotations__ if key != "model_config"
        }
    shared = model.Rule.model_fields if issubclass(item, model.Rule) else {}
    return {
        field.alias or key: field
        for key, field in item.model_fields.items()
        if item is model.Rule or key not in shared
    }


def default_text(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, BaseModel):
        return "`{}`"
    return f"`{json.dumps(field.default)}`"


def test_the_page_has_a_section_for_every_model_and_no_other() -> None:
    assert set(sections()) == set(models())


@pytest.mark.parametrize("name", sorted(models()))
def test_every_key_is_documented_with_its_default(name: str) -> None:
    documented = {key: default for key, (default, _) in sections()[name].items()}
    assert documented == {k: default_text(f) for k, f in own_fields(models()[name]).items()}


@pytest.mark.parametrize("name", sorted(models()))
def test_the_examples_of_a_section_are_valid(name: str) -> None:
    examples = {key: json.loads(example) for key, (_, example) in sections()[name].items()}
    models()[name].model_validate(examples)


def test_every_model_can_stand_in_a_file() -> None:
    reached: set[str] = set()

    def walk(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            known = annotation.__module__ == functions.__name__
            if annotation.__name__ not in reached and not known:
                reached.add(annotation.__name__)
                for field in annotation.model_fields.values():
                    walk(field.annotation)
        else:
            for argument in get_args(annotation):
                walk(argument)

    for _, kind in FILE_KINDS:
        walk(kind)
    assert reached == set(models()) - {"Rule"}
