"""JSON values to models: all mistakes of a file at once, as findings that name the remedy."""

from __future__ import annotations

import copy
import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from config.findings import Finding, printable
from config.functions import FUNCTION_KEY, function_name
from config.read import DEPTH_MAX, FINDINGS_PER_FILE_MAX, join_key

Model = TypeVar("Model", bound=BaseModel)

# pydantic's error type -> our rule and what was expected; {name} is filled from the error.
_EXPECTED: Final[Mapping[str, tuple[str, str]]] = {
    "string_type": ("value-type", "text in quotes"),
    "string_unicode": ("value-type", "text in quotes"),
    "bool_type": ("value-type", "true or false without quotes"),
    "int_type": ("value-type", "a whole number without quotes"),
    "int_from_float": ("value-type", "a whole number"),
    "float_type": ("value-type", "a number without quotes"),
    "list_type": ("value-type", "a list [ ... ]"),
    "dict_type": ("value-type", "an object {{ ... }}"),
    "model_type": ("value-type", "an object {{ ... }}"),
    "model_attributes_type": ("value-type", "an object {{ ... }}"),
    "literal_error": ("value-choice", "one of {expected}"),
    "union_tag_invalid": ("value-choice", "one of {expected_tags}"),
    "greater_than": ("value-range", "a number greater than {gt}"),
    "greater_than_equal": ("value-range", "a number of at least {ge}"),
    "less_than": ("value-range", "a number less than {lt}"),
    "less_than_equal": ("value-range", "a number of at most {le}"),
    "too_short": ("value-range", "{min_length} or more entries"),
    "too_long": ("value-range", "at most {max_length} entries"),
    "string_too_short": ("value-range", "text of at least {min_length} characters"),
    "finite_number": ("number-range", "a finite number"),
}


def validate(name: str, value: Any, model: type[Model]) -> tuple[Model | None, list[Finding]]:
    """A parsed file to its model; None and every finding where it doesn't fit."""
    try:
        return model.model_validate(value), []
    except ValidationError as error:
        findings: list[Finding] = []
        # A value that fits none of several types has one error for each of them.
        expected: dict[tuple[tuple[str | int, ...], str], list[str]] = {}
        for detail in error.errors(include_url=False, include_input=False):
            path = _real_path(value, detail["loc"])
            if detail["type"] == "union_tag_invalid":
                path = (*path, FUNCTION_KEY)
            if detail["type"] == "missing":
                findings.append(_missing(name, path, model, value))
            elif detail["type"] == "extra_forbidden":
                findings.append(_unknown(name, path, model, value))
            else:
                rule, text = _EXPECTED.get(detail["type"], ("value-type", "a value that fits"))
                text = text.format(**detail.get("ctx", {}))
                expected.setdefault((path, rule), []).append(text)
        for (path, rule), texts in expected.items():
            message = f"Expected {' or '.join(dict.fromkeys(texts))}; found {_found(value, path)}."
            findings.append(Finding(name, join_key(path), rule, message))
    return None, sorted(findings)[:FINDINGS_PER_FILE_MAX]


def sound_part(value: Any, model: type[Model]) -> Model | None:
    """What is left of a parsed file without the keys that don't fit; None where that is nothing.

    A list with a wrong element is left out whole, so that places in lists stay what they are.
    """
    left = copy.deepcopy(value)
    for _ in range(DEPTH_MAX):  # what is left out may be required by what stands above
        try:
            return model.model_validate(left)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                path = _real_path(left, detail["loc"])
                path = path[:-1] if detail["type"] == "missing" else path
                if not _leave_out(left, path):
                    return None
    return None


def _leave_out(value: Any, path: Sequence[str | int]) -> bool:
    """Removes the key at `path`, or that of the list around it; False where that is the root."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    if not path:
        return False
    for part in path[:-1]:
        if isinstance(value, dict) and part not in value:
            return True  # it went with something above
        value = value[part]
    value.pop(path[-1], None)
    return True


def _real_path(value: Any, loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """`loc` without the branch names that pydantic puts behind the key of a union."""
    path: list[str | int] = []
    for part in loc:
        if isinstance(value, dict) and isinstance(part, str):
            if part == "[key]":
                break
            if part not in value and part == function_name(value):
                continue
            path.append(part)
            if part not in value:
                break
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
        else:
            break
    return tuple(path)


def _found(value: Any, path: Sequence[str | int]) -> str:
    for part in path:
        value = value[part]
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f'the text "{printable(value)}"'
        case int() | float():
            return f"the number {value}"
        case dict():
            return "an object" if value else "an empty object"
        case _:
            return f"a list of {len(value)}" if value else "an empty list"


def _missing(name: str, path: tuple[str | int, ...], model: type[BaseModel], value: Any) -> Finding:
    keys = ", ".join(_keys_at(model, path[:-1], value, required=True))
    return Finding(
        name,
        join_key(path),
        "key-missing",
        f"This key is required here. Add it (required: {keys}).",
    )


def _unknown(name: str, path: tuple[str | int, ...], model: type[BaseModel], value: Any) -> Finding:
    known = _keys_at(model, path[:-1], value)
    wrong = str(path[-1])
    lower = {key.lower(): key for key in known}
    close = difflib.get_close_matches(wrong.lower(), list(lower), n=1, cutoff=0.6)
    if close:
        remedy = f'Did you mean "{lower[close[0]]}"?'
    else:
        remedy = f"Remove it, or use one of: {', '.join(sorted(known))}."
    return Finding(
        name, join_key(path), "key-unknown", f'"{printable(wrong)}" is no key here. {remedy}'
    )


def _keys_at(
    model: type[BaseModel], path: Sequence[str | int], value: Any, *, required: bool = False
) -> list[str]:
    """Keys that the object at `path` of `value` may (or must) have, as the JSON spells them."""
    here: Any = model
    for part in path:
        value = value[part]
        if _is_model(here):
            fields = {field.alias or key: field for key, field in here.model_fields.items()}
            here = _unwrapped(fields[str(part)].annotation, value) if part in fields else None
        else:
            arguments = get_args(here)
            here = _unwrapped(arguments[-1], value) if arguments else None
    if not _is_model(here):
        return []
    return [
        field.alias or key
        for key, field in here.model_fields.items()
        if field.is_required() or not required
    ]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _unwrapped(annotation: Any, value: Any) -> Any:
    """The type inside ``Annotated`` and ``| None``; of several models that which `value` names."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            choices = [choice for choice in get_args(annotation) if choice is not type(None)]
            named = function_name(value)
            annotation = next(
                (c for c in choices if named == getattr(_unwrapped(c, None), "__name__", "")),
                choices[0],
            )
        else:
            return annotation
