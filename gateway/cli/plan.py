"""``gatepost plan``: what polling a site would cost, before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gateway.cli.output import EXIT_BAD, console, counted, print_json, table
from gateway.cli.site import JsonOption, SiteArgument, need_folder

if TYPE_CHECKING:
    from config.findings import Finding
    from gateway.plan import DevicePlan, SitePlan

RIGHT = ("PERIOD", "BLOCKS", "REQUESTS/S", "ASKED B/S", "ANSWERED B/S", "LOAD", "WORST AGE")


def plan(
    site: SiteArgument,
    points: Annotated[
        bool, typer.Option("--points", help="Print the worst age of every point.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Print requests, bytes, loads and worst ages; exit status 1 where a plan can't be kept.

    Nothing is asked or started. What the figures mean stands in docs/planning.md.
    """
    from config.load import require_site
    from gateway.plan import overloads, plan_site

    made = plan_site(require_site(need_folder(site)))
    findings = overloads(made)
    if json:
        print_json(document(made, findings))
    else:
        out = console()
        out.print(_classes(made))
        if made.lines:
            out.print()
            out.print(_lines(made))
        for text in _unasked(made):
            out.print(text)
        if points:
            out.print()
            out.print(_points(made))
    for finding in findings:
        console(stderr=True).print(f"{finding.severity}: {finding}", markup=False)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(EXIT_BAD)


def document(made: SitePlan, findings: Sequence[Finding]) -> dict[str, Any]:
    """The plan as JSON; a load of 1 is 100 %, an age that nothing bounds is null."""
    devices = []
    for device in made.devices:
        classes = [
            {
                "name": c.name,
                "period_s": c.period_s,
                "blocks": len(c.blocks),
                "requests_per_s": c.requests_per_s,
                "request_bytes_per_s": c.request_bytes_per_s,
                "answer_bytes_per_s": c.answer_bytes_per_s,
                "worst_age_s": c.worst_age_s,
            }
            for c in device.classes
        ]
        devices.append(
            {
                "name": device.name,
                "protocol": device.protocol,
                "line": device.line or None,
                "load": device.load,
                "classes": classes,
                "sent": device.sent,
                "unknown": device.unknown,
            }
        )
    return {
        "devices": devices,
        "lines": [asdict(line) for line in made.lines],
        "points": [
            {"tag": tag, "scan_class": name, "block": label, "worst_age_s": age_s}
            for tag, name, label, age_s in _ages(made)
        ],
        "findings": [asdict(finding) for finding in findings],
    }


def _classes(made: SitePlan) -> Table:
    shown = table("DEVICE", "CLASS", *RIGHT, right=RIGHT)
    for device in made.devices:
        for at, c in enumerate(device.classes):
            shown.add_row(
                device.name if at == 0 else "",
                c.name,
                _time(c.period_s),
                str(len(c.blocks)),
                f"{c.requests_per_s:.4g}",
                f"{c.request_bytes_per_s:.4g}",
                f"{c.answer_bytes_per_s:.4g}",
                _load(device) if at == 0 else "",
                _time(c.worst_age_s),
            )
    return shown


def _load(device: DevicePlan) -> str:
    # Where nobody said how long a device takes, 0 % would be a promise.
    return f"{device.load:.1%}" if device.line or device.reply_delay_s else "-"


def _lines(made: SitePlan) -> Table:
    shown = table("LINE", "DEVICES", "REQUESTS/S", "LOAD", right=("REQUESTS/S", "LOAD"))
    for line in made.lines:
        users = [d for d in made.devices if d.name in line.devices]
        requests_per_s = sum(c.requests_per_s for d in users for c in d.classes)
        names = ", ".join(line.devices)
        shown.add_row(line.port, names, f"{requests_per_s:.4g}", f"{line.load:.1%}")
    return shown


def _unasked(made: SitePlan) -> list[str]:
    texts = []
    for device in made.devices:
        if device.sent:
            points = counted(len(device.sent), "point")
            texts.append(f"{device.name}: the device sends {points} by itself")
        if device.unknown:
            points = counted(len(device.unknown), "point")
            texts.append(f"{device.name}: {points} of {device.protocol}, no cost known")
    return texts


def _points(made: SitePlan) -> Table:
    shown = table("POINT", "CLASS", "BLOCK", "WORST AGE", right=("WORST AGE",))
    for tag, name, label, age_s in _ages(made):
        shown.add_row(tag, name, label, _time(age_s))
    return shown


def _ages(made: SitePlan) -> list[tuple[str, str, str, float | None]]:
    return [
        (tag, c.name, block.label, block.worst_age_s)
        for device in made.devices
        for c in device.classes
        for block in c.blocks
        for tag in block.points
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "grows"
    return f"{seconds * 1000:.4g} ms" if seconds < 10 else f"{seconds:.4g} s"
