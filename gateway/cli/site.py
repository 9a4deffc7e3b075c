"""From the command line's SITE and --state to a loaded site and its state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.output import CommandFailed
from gateway.core.paths import StatePaths, default_state_folder

if TYPE_CHECKING:
    from config.site import Site

SiteArgument = Annotated[Path, typer.Argument(metavar="SITE", help="Site folder.")]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="State folder; default: $GATEPOST_STATE or ~/.local/state/gatepost, by site name.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]

NO_FOLDER: Final = "no such site folder"


def need_folder(site: Path) -> Path:
    """`site` where it is a folder; raises CommandFailed where it is none."""
    if not site.is_dir():
        raise CommandFailed(f"{site}: {NO_FOLDER}")
    return site


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway that ``status``, ``read`` and ``write`` speak to.

    site   what the folder holds; None where it doesn't load, which is no reason to leave the
           running gateway alone
    """

    paths: StatePaths
    site: Site | None


def target_of(site: Path, state: Path | None) -> Target:
    """The gateway of a site folder. Raises CommandFailed or SiteError."""
    from config.load import load_site

    paths = state_of(site, state)
    return Target(paths, load_site(site)[0])


def state_of(site: Path, state: Path | None) -> StatePaths:
    """The state folder that a gateway of `site` uses. Raises CommandFailed or SiteError."""
    need_folder(site)
    if state is not None:
        return StatePaths(state)
    from config.load import require_site

    return StatePaths(default_state_folder(require_site(site).name))
