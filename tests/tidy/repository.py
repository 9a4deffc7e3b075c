"""The files of this repository as git sees them: what is committed and what would be."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def files() -> tuple[str, ...]:
    """Paths from the root, with slashes, sorted."""
    listing = subprocess.run(
        # A clone may belong to another user than the one who runs the tests.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = sorted(set(listing.split("\0")) - {""})
    return tuple(path for path in paths if (ROOT / path).is_file())


def text(path: str) -> str | None:
    """The file's text; None for one that isn't there or isn't text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def texts(suffix: str = "") -> list[tuple[str, str]]:
    """(path, text) of every text file whose name ends so."""
    pairs = ((path, text(path)) for path in files() if path.endswith(suffix))
    return [(path, content) for path, content in pairs if content is not None]
