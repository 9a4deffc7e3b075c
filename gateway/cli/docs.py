"""``gatepost docs``: the documentation of a site, generated from what it compiles to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.output import console
from gateway.cli.site import SiteArgument, need_folder

OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write there, not to standard output.")
]
HtmlOption = Annotated[
    bool, typer.Option("--html", help="One HTML file with its pictures, in place of Markdown.")
]


def docs(site: SiteArgument, out: OutOption = None, html: HtmlOption = False) -> None:
    """Print a site's documentation: matrix, states, alarms, grid functions, outputs, points.

    Markdown with Mermaid diagrams, in a stable order; the site must be free of errors.
    """
    text = document(need_folder(site), html=html)
    if out is None:
        typer.echo(text, nl=False)
        return
    out.write_text(text, encoding="utf-8")
    console(stderr=True).print(f"{out}: {len(text.encode())} bytes", markup=False)


def document(folder: Path, *, html: bool) -> str:
    """The documentation of a site folder. Raises SiteError where it has errors."""
    from config.load import require_site
    from gateway.cli.docs_document import markdown
    from gateway.cli.docs_html import html_page
    from gateway.cli.docs_site import site_document
    from safety.compile import require_program

    loaded = require_site(folder)
    blocks = site_document(loaded, require_program(loaded))
    if html:
        return html_page(f"Site {loaded.name}", blocks)
    return markdown(blocks)
