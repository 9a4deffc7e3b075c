"""Findings of ``keys.json``. None keeps a gateway from starting: a plant runs without the cloud.

They are warnings for that reason; where the file can't be used, no key counts until it is mended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from config.command_keys import KEYS_FILE, CommandKey, load_keys
from config.findings import Finding, nearest, printable
from config.site import Site


def check_keys(folder: Path, site: Site | None) -> list[Finding]:
    """Everything that is wrong with the keys in a site folder, sorted by key.

    Where the site doesn't load, its points are unknown and nothing is said of patterns of them.
    """
    known, faults = load_keys(folder)
    found = [replace(fault, severity="warning") for fault in faults]
    if site is not None:
        for number, key in enumerate(known.values()):
            found += _points(number, key, site)
    return sorted(found)


def _points(number: int, key: CommandKey, site: Site) -> Iterator[Finding]:
    """Patterns that cover nothing which could be set, acknowledged or shelved."""
    if key.revoked:
        return
    tags = [point.tag for point in site.points if point.writable or point.source == "rule"]
    at = f"Keys[{number}].Points"
    if not key.points and set(key.types) - {"query"}:
        message = f'"{key.name}" may set no point. Name some, e.g. "Battery.*".'
        yield Finding(KEYS_FILE, at, "key-point", message, "warning")
    for place, pattern in enumerate(key.points):
        if not any(fnmatchcase(tag, pattern) for tag in tags):
            message = f'No point that could be commanded is covered by "{printable(pattern)}". '
            yield Finding(
                KEYS_FILE,
                f"{at}[{place}]",
                "key-point",
                message + nearest(pattern, tags),
                "warning",
            )
