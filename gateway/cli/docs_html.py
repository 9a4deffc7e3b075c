"""A document as one HTML file that needs nothing from anywhere: style and pictures are in it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

from gateway.cli.docs_diagram import Diagram
from gateway.cli.docs_document import (
    Block,
    Cell,
    Code,
    Heading,
    Paragraph,
    Piece,
    Table,
    kept_apart,
    plain_line,
)

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem;
  color: #1b2430; background: #fff; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; }
h2 { border-bottom: 1px solid #cdd5df; padding-bottom: .2rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92em; }
th, td { border: 1px solid #cdd5df; padding: .25rem .55rem; text-align: left; vertical-align: top; }
th { background: #eef2f6; position: sticky; top: 0; }
code { font: .92em ui-monospace, monospace; background: #f2f4f7; padding: 0 .2em; }
nav ul { columns: 2; list-style: none; padding: 0; }
svg text { font: 13px ui-monospace, monospace; fill: #1b2430; }
svg rect { fill: #eef2f6; stroke: #5a6b7f; }
svg .initial rect { fill: #dcecff; stroke-width: 2; }
svg .any rect { fill: #fff; stroke-dasharray: 5 4; }
svg .way { fill: none; stroke: #5a6b7f; }
svg .number { font-weight: 700; paint-order: stroke; stroke: #fff; stroke-width: 5px; }
@media print { body { max-width: none; margin: 0; } th { position: static; } }
"""


def html_page(title: str, blocks: Iterable[Block | Diagram]) -> str:
    """The document as a page."""
    parts = list(blocks)
    headings = [b for b in parts if isinstance(b, Heading) and b.level == 2]
    anchors = {id(block): f"part-{at + 1}" for at, block in enumerate(headings)}
    links = "".join(f'<li><a href="#{anchors[id(b)]}">{_text(b.text)}</a></li>' for b in headings)
    body = []
    for block in parts:
        body.append(_block(block, anchors.get(id(block), "")))
        if isinstance(block, Heading) and block.level == 1:
            body.append(f"<nav><ul>{links}</ul></nav>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return html.escape(plain_line(text))


def _piece(piece: Piece) -> str:
    if isinstance(piece, Code):
        return f"<code>{_text(piece.text)}</code>" if piece.text.strip() else ""
    return _text(piece)


def _cell(cell: Cell) -> str:
    return ", ".join(_piece(piece) for piece in (cell if isinstance(cell, tuple) else (cell,)))


def _block(block: Block | Diagram, anchor: str) -> str:
    match block:
        case Heading(level, text):
            name = f' id="{anchor}"' if anchor else ""
            return f"<h{level}{name}>{_text(text)}</h{level}>"
        case Paragraph(pieces):
            return f"<p>{''.join(kept_apart(piece, _piece(piece)) for piece in pieces)}</p>"
        case Table(head, rows):
            heads = "".join(f"<th>{_text(name)}</th>" for name in head)
            lines = "\n".join(
                f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows
            )
            return (
                f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n'
                f"<tbody>{lines}</tbody></table></div>"
            )
        case _:
            return f'<div class="wide">{block.svg()}</div>'
