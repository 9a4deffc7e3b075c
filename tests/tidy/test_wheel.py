"""The wheel holds the seven packages with all their files, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tidy import repository
from tests.tidy.checks import PACKAGES

PROJECT_FILES = ("pyproject.toml", "LICENSE", "README.md")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in a wheel built from a copy, so that no build folder is left in the repository."""
    source = tmp_path_factory.mktemp("source")
    for path in repository.files():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository.ROOT / path, target)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", source / "out", source],
        check=True,
        capture_output=True,
        timeout=50,
    )
    (wheel,) = (source / "out").glob("*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_every_file_of_the_packages_is_shipped(shipped: set[str]) -> None:
    ours = {path for path in repository.files() if path.partition("/")[0] in PACKAGES}
    assert ours - shipped == set(), "add these to package-data in pyproject.toml, or an __init__.py"


def test_nothing_else_is_shipped(shipped: set[str]) -> None:
    assert {name.partition("/")[0] for name in shipped} == set(PACKAGES)


def test_the_project_files_are_there() -> None:
    assert all((Path(repository.ROOT) / name).is_file() for name in PROJECT_FILES)
