"""A document of headings, paragraphs, tables and diagrams, written as Markdown.

Names, descriptions and rules come from a site's files and are hostile until they are escaped:
nothing in them may end a table, open a tag or start a link's markup. The Markdown is GitHub's
(tables, fenced ``mermaid``); gateway/cli/docs_html.py writes the same blocks as HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.cli.output import printable

if TYPE_CHECKING:
    from gateway.cli.docs_diagram import Diagram


@dataclass(frozen=True, slots=True)
class Code:
    """Text that stands as it is: a rule, a tag, a number."""

    text: str


Piece = str | Code
Cell = Piece | tuple[Piece, ...]  # several pieces stand behind one another, with commas


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; the title of the document has level 1."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; its pieces follow one another without a separator.

    The first piece is a word of ours, so that no name can start a list or a heading.
    """

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; every row is as long as the head."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        """A row of another length would shift its cells under foreign heads."""
        assert all(len(row) == len(self.head) for row in self.rows)


Block = Heading | Paragraph | Table


def paragraph(*pieces: Piece) -> Paragraph:
    """A paragraph of its pieces."""
    return Paragraph(pieces)


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """A table of any rows."""
    return Table(tuple(head), tuple(tuple(row) for row in rows))


def plain_line(text: str) -> str:
    """Text on one line: white space becomes single spaces, what a screen obeys is spelled out."""
    return printable(" ".join(text.split()), kept="")


def kept_apart(piece: Piece, written: str) -> str:
    """A written piece of running text with the spaces at its ends, which part it from others."""
    if isinstance(piece, Code):
        return written
    return " " * piece[:1].isspace() + written + " " * piece[-1:].isspace()


# ---------------------------------------------------------------- Markdown

# Signs that mean something to a Markdown reader anywhere in a line. An underscore inside a word
# and a number sign inside a line mean nothing, and rule names are full of them.
_MARKS: Final = re.compile(r"[\\`*\[\]<>|~&$!{}]|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKS.sub(lambda found: "\\" + found[0], plain_line(text))


def code_span(text: str) -> str:
    """Text in a code span; its bars are escaped for the table around it."""
    line = plain_line(text)
    if not line:
        return ""
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _piece(piece: Piece) -> str:
    return code_span(piece.text) if isinstance(piece, Code) else escaped(piece)


def _cell(cell: Cell) -> str:
    if not isinstance(cell, tuple):
        cell = (cell,)
    # A table ends a cell at a bar even inside of a code span, but for an escaped one.
    return ", ".join(
        _piece(piece).replace("|", "\\|") if isinstance(piece, Code) else _piece(piece)
        for piece in cell
    )


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(blocks: Iterable[Block | Diagram]) -> str:
    """The document as Markdown, ending in a newline."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block | Diagram) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {escaped(text).replace('#', chr(92) + '#')}"
        case Paragraph(pieces):
            return "".join(kept_apart(piece, _piece(piece)) for piece in pieces)
        case Table(head, rows):
            lines = [_row(escaped(name) for name in head), _row("---" for _ in head)]
            lines += [_row(_cell(cell) for cell in row) for row in rows]
            return "\n".join(lines)
        case _:
            return f"```mermaid\n{block.mermaid()}\n```"
