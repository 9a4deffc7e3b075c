"""``gatepost``: the command line. Every command's help is its documentation in short."""

from __future__ import annotations

import sys

import typer

from config.findings import SiteError
from gateway.cli import check, demo, operate, query, run
from gateway.cli.output import EXIT_IMPOSSIBLE, CommandFailed

app = typer.Typer(
    name="gatepost",
    help="Edge gateway for energy sites.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(check.check)
app.command()(run.run)
app.command()(operate.status)
app.command()(operate.read)
app.command(context_settings={"ignore_unknown_options": True})(operate.write)
app.command()(query.query)
app.command()(demo.demo)


def main() -> None:
    """Entry point: what can go wrong ends in a message and an exit status, not in a traceback."""
    try:
        app(prog_name="gatepost")
    except CommandFailed as error:
        print(f"gatepost: {error.message}", file=sys.stderr)
        sys.exit(error.status)
    except SiteError as error:
        for finding in error.findings:
            print(finding, file=sys.stderr)
        print("gatepost: the site can't be used; `gatepost check` shows more", file=sys.stderr)
        sys.exit(EXIT_IMPOSSIBLE)
    except BrokenPipeError:
        # The reader of a pipe, such as head, has had enough. Python would complain at its exit.
        sys.stderr.close()
        sys.exit(EXIT_IMPOSSIBLE)


if __name__ == "__main__":
    main()
