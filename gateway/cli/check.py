"""``gatepost check``: everything that is wrong with a site folder, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from config.findings import Finding, folded
from gateway.cli.output import EXIT_BAD, console, counted, print_json
from gateway.cli.site import JsonOption, SiteArgument, need_folder
from gateway.core.garbage import collection_paused


def all_findings(site: Path) -> list[Finding]:
    """Findings of every check, sorted by file and key, each once.

    The checks of addresses and rules need a site that loads; where it doesn't, what keeps it from
    loading is reported, and what is wrong with the keys.
    """
    from config.check import check_site
    from config.check_keys import check_keys
    from config.load import load_site
    from drivers.registry import check_instruments
    from gateway.plan import check_plan
    from safety.compile import compile_site

    loaded, findings = load_site(site)
    if loaded is not None:
        _, of_rules = compile_site(loaded)
        findings = [*findings, *check_site(loaded), *check_instruments(loaded), *of_rules]
        findings += check_plan(loaded)
    return sorted({*findings, *check_keys(site, loaded)})


def errors_of(findings: Sequence[Finding]) -> int:
    """How many of them keep a gateway from starting."""
    return sum(finding.severity == "error" for finding in findings)


def summary(findings: Sequence[Finding]) -> str:
    """``2 errors, 1 warning``, or ``no findings``."""
    errors = errors_of(findings)
    counts = f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}"
    return counts if findings else "no findings"


def check(site: SiteArgument, json: JsonOption = False) -> None:
    """Print every finding in a site folder; exit status 1 where there are any.

    One line a finding: file, key, rule and message. The rules are listed in docs/checks.md. Of many
    warnings that are alike the first is printed, with their number.
    """
    folder = need_folder(site)
    with collection_paused():
        findings = all_findings(folder)
    if json:
        print_json({"site": str(site), "findings": [asdict(finding) for finding in findings]})
    else:
        out = console()
        for finding in folded(findings):
            out.print(f"{finding.severity}: {finding}", markup=False)
    console(stderr=True).print(f"{site}: {summary(findings)}", markup=False)
    if findings:
        raise typer.Exit(EXIT_BAD)
