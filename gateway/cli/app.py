"""``gatepost``: the command line. Every command's help is its documentation in short."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from config.findings import SiteError
from gateway.cli import (
    alarms,
    certs,
    check,
    demo,
    discover,
    docs,
    enrol,
    estop,
    events,
    explain,
    keys,
    operate,
    plan,
    protect,
    prove,
    query,
    replay,
    run,
    schedule,
    send,
    simulate,
    store,
    templates,
    trace,
    users,
)
from gateway.cli.output import EXIT_IMPOSSIBLE, CommandFailed, printable

app = typer.Typer(
    name="gatepost",
    help="Edge gateway for energy sites.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"gatepost {metadata.version('gatepost')}")
        raise typer.Exit


@app.callback()
def _gatepost(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Edge gateway for energy sites."""


app.command()(check.check)
app.command()(plan.plan)
app.command()(docs.docs)
app.command()(run.run)
app.command()(operate.status)
app.command()(operate.read)
app.command(context_settings={"ignore_unknown_options": True})(operate.write)
app.add_typer(schedule.app, name="schedule")
app.command()(send.send)
app.add_typer(keys.app, name="keys")
app.add_typer(enrol.app, name="enrol")
app.add_typer(certs.app, name="certs")
app.add_typer(users.app, name="users")
app.command()(estop.estop)
app.command()(protect.reset)
app.command()(protect.states)
app.command()(protect.bypass)
app.command()(alarms.alarms)
app.command()(alarms.ack)
app.command()(alarms.shelve)
app.command()(alarms.service)
app.command()(events.events)
app.command()(explain.explain)
app.command()(prove.prove)
app.command()(discover.discover)
app.command()(trace.trace)
app.command()(simulate.simulate)
app.command()(templates.templates)
app.command()(query.query)
app.command()(replay.replay)
app.add_typer(store.app)
app.command()(demo.demo)


def main() -> None:
    """Entry point: what can go wrong ends in a message and an exit status, not in a traceback."""
    try:
        try:
            app(prog_name="gatepost")
        finally:
            if sys.stdout is not None:  # None: the shell closed it
                sys.stdout.flush()  # a full disk is a message here, and a traceback at the exit
    except CommandFailed as error:
        print(f"gatepost: {printable(error.message)}", file=sys.stderr)
        sys.exit(error.status)
    except SiteError as error:
        for finding in error.findings:
            print(printable(str(finding)), file=sys.stderr)
        print("gatepost: the site can't be used; `gatepost check` shows more", file=sys.stderr)
        sys.exit(EXIT_IMPOSSIBLE)
    except BrokenPipeError:
        # The reader of a pipe, such as head, has had enough. Python would complain at its exit.
        sys.stderr.close()
        sys.exit(EXIT_IMPOSSIBLE)
    except OSError as error:
        print(f"gatepost: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        with contextlib.suppress(OSError, ValueError):  # what is left of the output can't be kept
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_IMPOSSIBLE)


if __name__ == "__main__":
    main()
