"""What is wrong with a site's `Watchdog`: outputs that can't toggle, a device that is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from config.findings import nearest
from config.site import Site


def watchdog_faults(site: Site) -> Iterator[tuple[str, str]]:
    """(key below `Watchdog`, message) of each fault."""
    entry = site.system.Watchdog
    if entry is None:
        return
    outputs = {p.tag: p for p in site.points if p.is_output}
    for at, tag in enumerate(entry.Outputs):
        point = outputs.get(tag)
        if point is None:
            yield f"Outputs[{at}]", f"There is no active output {tag}. {nearest(tag, outputs)}"
        elif point.kind != "discrete":
            yield (
                f"Outputs[{at}]",
                f"{tag} is a number; a watchdog toggles a discrete output between 0 and 1.",
            )
        elif tag in entry.Outputs[:at]:
            yield f"Outputs[{at}]", f"{tag} stands twice and would not change. Remove one."
    if entry.Device is not None and not _is_device(entry.Device):
        yield "Device", "Expected a file directly below /dev, e.g. /dev/watchdog."
    if not entry.Outputs and entry.Device is None:
        yield "Outputs", "The watchdog has neither Outputs nor a Device. Name one, or remove it."


def _is_device(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parent == PurePosixPath("/dev") and path.name != ".." and "\0" not in name
