"""``gatepost run``: the gateway itself, in the foreground."""

from __future__ import annotations

import sys

import typer

from config.findings import folded
from gateway.cli.check import all_findings, errors_of, summary
from gateway.cli.output import CommandFailed
from gateway.cli.site import SiteArgument, StateOption, need_folder, state_of


def run(site: SiteArgument, state: StateOption = None) -> None:
    """Run the gateway of a site until Ctrl-C or SIGTERM: field and link process, supervised.

    The site is checked first: with an error nothing is started. On the way down every output that
    declares a safe value is driven to it. A second Ctrl-C kills.
    """
    from gateway import supervisor

    findings = all_findings(need_folder(site))
    for finding in folded(findings):
        print(f"{finding.severity}: {finding}", file=sys.stderr)
    if errors_of(findings):
        # A gateway that fails half-way would have taken the broker's session from one that runs.
        raise CommandFailed(
            f"{site}: {summary(findings)}; nothing was started. `gatepost check` shows the same"
        )
    status = supervisor.main(site, state_of(site, state).folder)
    if status:
        raise typer.Exit(status)
