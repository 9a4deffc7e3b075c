"""``gatepost demo``: a whole site, its plant and its cloud, on this machine."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.output import EXIT_BAD, CommandFailed, console, print_json
from gateway.cli.site import need_folder

if TYPE_CHECKING:
    from gateway.cli.demo_report import Report
    from gateway.cli.demo_run import Options

DEFAULT_SITE: Final = Path(__file__).resolve().parents[2] / "config" / "sites" / "soec-lab"
OUTAGE_MARGIN_S: Final = 4.0  # before and after an outage, together
SECONDS_MAX: Final = 86_400.0


def demo(
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", help="End after that time.")
    ] = None,
    outage: Annotated[
        float | None,
        typer.Option("--outage", metavar="SECONDS", help="Stop the broker for that long."),
    ] = None,
    trip: Annotated[bool, typer.Option("--trip", help="Overheat the stack.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output at the end.")
    ] = False,
    site: Annotated[
        Path,
        typer.Option(
            "--site", metavar="DIR", show_default=False, help="Site folder; default: soec-lab."
        ),
    ] = DEFAULT_SITE,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="State folder, new or empty; kept."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state folder.")] = False,
) -> None:
    """Run a laboratory with simulated devices, a real broker and a historian.

    Polls, protects, buffers, serves OPC UA and forwards until Ctrl-C, or for some time. Exit
    status 0 where nothing is missing in the historian or there twice, and what --outage and --trip
    ask for was seen.
    """
    from gateway.cli.demo_run import Demo, Options
    from gateway.cli.demo_site import copy_site

    check_times(seconds, outage)
    need_folder(site)
    folder, temporary = state_folder(state)
    try:
        copied = copy_site(site, folder / "site")
        options = Options(seconds=seconds, outage_s=outage, trip=trip)
        report = asyncio.run(Demo(copied, folder, options).run())
    finally:
        if temporary and not keep:
            shutil.rmtree(folder, ignore_errors=True)
    faults = show(report, options, json)
    if keep or not temporary:
        console(stderr=True).print(f"state, logs and historian are in {folder}", markup=False)
    if faults:
        raise typer.Exit(EXIT_BAD)


def check_times(seconds: float | None, outage: float | None) -> None:
    """Raise CommandFailed where the times can't be kept."""
    if seconds is not None and not 0 < seconds <= SECONDS_MAX:
        raise CommandFailed(f"--for {seconds:g}: more than 0 and up to {SECONDS_MAX:g} seconds")
    if outage is not None and not 0 < outage <= SECONDS_MAX:
        raise CommandFailed(f"--outage {outage:g}: more than 0 and up to {SECONDS_MAX:g} seconds")
    if seconds is not None and outage is not None and outage + OUTAGE_MARGIN_S > seconds:
        raise CommandFailed(
            f"--outage {outage:g} doesn't fit into --for {seconds:g}: "
            f"{OUTAGE_MARGIN_S:g} s more are needed before and after it"
        )


def state_folder(state: Path | None) -> tuple[Path, bool]:
    """The folder of this run, and whether it is a temporary one. Raises CommandFailed."""
    if state is None:
        return Path(tempfile.mkdtemp(prefix="gatepost-demo-")), True
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(state.iterdir()):
            raise CommandFailed(f"{state} is not empty; name a new folder")
    except OSError as error:
        raise CommandFailed(f"{state} can't be used: {error.strerror}") from error
    return state.resolve(), False


def show(report: Report, options: Options, json: bool) -> list[str]:
    """Print the report; why the demonstration failed, or nothing."""
    from gateway.cli.demo_report import report_view

    faults = report.faults(trip=options.trip, outage=options.outage_s is not None)
    if json:
        print_json(report.figures())
    out = console(stderr=True)
    out.print(report_view(report, faults))
    return faults
