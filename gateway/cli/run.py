"""``gatepost run``: the gateway itself, in the foreground."""

from __future__ import annotations

import typer

from gateway.cli.site import SiteArgument, StateOption, state_of


def run(site: SiteArgument, state: StateOption = None) -> None:
    """Run the gateway of a site until Ctrl-C or SIGTERM: field and link process, supervised.

    On the way down every output that declares a safe value is driven to it. A second Ctrl-C kills.
    """
    from gateway import supervisor

    status = supervisor.main(site, state_of(site, state).folder)
    if status:
        raise typer.Exit(status)
