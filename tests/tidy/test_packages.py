"""What is installed: our names are ours, the locks are whole, the licences are known."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tidy import repository
from tests.tidy.checks import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-test.lock", "requirements-demo.lock")

# Packages of these names on the index would be imported instead of our folders.
NEVER_INSTALLED = (*PACKAGES, "bench", "tests")

# What the run time may be under, as the packages themselves declare it.
LICENCES_ALLOWED = {
    "Apache-2.0",
    "Apache License, Version 2.0",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "3-Clause BSD License",  # in protobuf's words
    "0BSD",
    "CC0-1.0",
    "EPL-2.0",
    "ISC",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "PSF-2.0",
    "Public Domain",
    "Zlib",
    "Apache-2.0 WITH LLVM-exception",
}
CLASSIFIERS = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "License :: OSI Approved :: GNU Lesser General Public License v3 or later (LGPLv3+)": (
        "LGPL-3.0-or-later"
    ),
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "License :: Public Domain": "Public Domain",
}


def pins(lock: str) -> dict[str, str]:
    """name -> version of every pin of a lock's text."""
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE)
    }


def unhashed(lock: str) -> list[str]:
    """Pins without a hash, and lines that are no pin, hash or comment."""
    joined = lock.replace("\\\n", " ")
    bad = []
    for line in joined.splitlines():
        requirement = line.split("#")[0].strip()
        if requirement and not (
            re.match(r"[A-Za-z0-9._-]+==\S", requirement) and "--hash=sha256:" in requirement
        ):
            bad.append(requirement)
    return bad


def licence_parts(expression: str | None, classifiers: list[str], text: str | None) -> set[str]:
    """The licences a package declares, by the most exact of the three ways.

    Of an `A OR B` the first that is allowed counts; all of an `A AND B` do.
    """
    if expression:
        parts = set()
        for needed in re.split(r"\s+AND\s+", expression.replace("(", "").replace(")", "")):
            choices = re.split(r"\s+OR\s+", needed)
            parts.add(next((one for one in choices if one in LICENCES_ALLOWED), choices[0]))
        return parts
    named = {CLASSIFIERS.get(line, line) for line in classifiers if line.startswith("License ::")}
    if named:
        return named
    return {text.strip().splitlines()[0]} if text and text.strip() else set()


def unknown_licences(parts: set[str]) -> set[str]:
    """What is not on the list; a package that declares nothing is unknown as well."""
    return (parts - LICENCES_ALLOWED) or (set() if parts else {"nothing declared"})


def foreign_imports(source: str) -> set[str]:
    """Top-level names that a file imports and that are neither ours nor the standard library's."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    tops = {name.partition(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {*PACKAGES, "tests", "bench", ""}


def read(lock: str) -> str:
    return (ROOT / lock).read_text(encoding="utf-8")


def project() -> dict[str, list[str]]:
    """Requirements of pyproject.toml: '' for the run time, else the extra's name."""
    table = tomllib.loads(read("pyproject.toml"))["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def test_our_names_belong_to_us() -> None:
    owners = importlib.metadata.packages_distributions()
    foreign = {name: owners.get(name) for name in PACKAGES if owners.get(name) != ["gatepost"]}
    assert not foreign, f"not ours alone: {foreign}; run tools/venv test again"


def test_our_names_are_imported_from_here() -> None:
    for name in PACKAGES:
        origin = importlib.import_module(name).__file__
        assert origin is not None
        assert Path(origin).parent == ROOT / name


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_pinned_with_hashes(lock: str) -> None:
    assert pins(read(lock))
    assert unhashed(read(lock)) == []


def test_planted_unhashed_pin() -> None:
    assert unhashed("a==1.0\n") == ["a==1.0"]
    assert unhashed("--index-" + "url https://example.org\n")
    assert unhashed("a==1.0 \\\n    --hash=sha256:00\n    # via b\n") == []


def test_locks_agree() -> None:
    run_time = pins(read("requirements.lock"))
    test = pins(read("requirements-test.lock"))
    assert {name: test.get(name) for name in run_time} == run_time


@pytest.mark.parametrize(
    ("extra", "lock"),
    [
        ("", "requirements.lock"),
        ("test", "requirements-test.lock"),
        ("demo", "requirements-demo.lock"),
    ],
)
def test_lock_satisfies_the_project(extra: str, lock: str) -> None:
    pinned = pins(read(lock))
    for line in project()[extra]:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {lock}: make lock"
        assert requirement.specifier.contains(version), f"{line}, but {lock} pins {version}"


@pytest.mark.parametrize(
    ("folders", "extras"), [(PACKAGES, [""]), (("tests", "bench"), ["", "test"])]
)
def test_what_is_imported_is_required(folders: tuple[str, ...], extras: list[str]) -> None:
    """An import of a package that only another package brings breaks when that one changes."""
    required = {
        canonicalize_name(Requirement(line).name) for extra in extras for line in project()[extra]
    }
    owners = importlib.metadata.packages_distributions()
    missing = {
        f"{path} imports {name}"
        for path, source in repository.texts(".py")
        if path.partition("/")[0] in folders
        for name in foreign_imports(source)
        if not required & {canonicalize_name(owner) for owner in owners.get(name, [])}
    }
    assert not missing, f"not among the requirements of pyproject.toml: {sorted(missing)}"


def test_planted_imports() -> None:
    source = "import os, numpy.random\nfrom config.site import a\nfrom pymodbus.client import b\n"
    assert foreign_imports(source) == {"numpy", "pymodbus"}


def test_no_package_takes_our_names() -> None:
    taken = {name for lock in LOCKS for name in pins(read(lock))} & set(NEVER_INSTALLED)
    assert not taken


def test_run_time_licences() -> None:
    unknown = {}
    for name in pins(read("requirements.lock")):
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the lock serves every Python and system; this one doesn't need it
        parts = licence_parts(
            metadata.get("License-Expression"),
            metadata.get_all("Classifier") or [],
            metadata.get("License"),
        )
        if bad := unknown_licences(parts):
            unknown[name] = bad
    assert not unknown, f"look at these licences, then allow or drop the packages: {unknown}"


def test_planted_licences() -> None:
    gpl = "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"
    assert unknown_licences(licence_parts("GPL-3.0-only", [], None))
    assert unknown_licences(licence_parts("MIT AND GPL-2.0-only", [], None))
    assert unknown_licences(licence_parts(None, [gpl], "GPL"))
    assert unknown_licences(licence_parts(None, [], "GPL"))
    assert unknown_licences(licence_parts(None, [], None))
    assert not unknown_licences(licence_parts("GPL-2.0-only OR MIT", [], None))
    assert not unknown_licences(licence_parts(None, [next(iter(CLASSIFIERS))], None))
