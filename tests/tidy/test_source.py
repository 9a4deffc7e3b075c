"""Every file of the repository keeps the house's habits (tests/tidy/checks.py)."""

from __future__ import annotations

import sys

import pytest

from tests.tidy import checks, repository

# Licences and locks are others' words; leftovers are looked for in what people write.
NOT_OUR_WORDS = (".lock", "LICENSE")


def by_name(check: checks.Check) -> str:
    return getattr(check, "__name__", "check")


@pytest.mark.parametrize("check", checks.PYTHON_CHECKS, ids=by_name)
def test_python(check: checks.Check) -> None:
    files = repository.texts(".py")
    assert files
    findings = [line for path, source in files for line in check(path, source)]
    assert not findings, "\n" + "\n".join(findings)


@pytest.mark.parametrize("check", checks.TEXT_CHECKS, ids=by_name)
def test_text(check: checks.Check) -> None:
    findings = [line for path, source in repository.texts() for line in check(path, source)]
    if check is checks.leftovers:
        findings = [line for line in findings if not line.split(":")[0].endswith(NOT_OUR_WORDS)]
    assert not findings, "\n" + "\n".join(findings)


def test_asserts_are_on() -> None:
    assert sys.flags.optimize == 0


def test_plain_and_documented_modules_exist() -> None:
    """A renamed module must not slip out of its rule."""
    files = repository.files()
    places = {*checks.PLAIN_MODULES, *checks.DOCUMENTED_MODULES, *checks.BROAD_EXCEPTS_MAX}
    missing = [
        place for place in sorted(places) if not any(path.startswith(place) for path in files)
    ]
    assert not missing, f"rules in tests/tidy/checks.py name {missing}, which don't exist"
