"""What all commands share: how they end badly, and how they print."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH: Final = 500  # columns of a console that is no terminal
EXIT_BAD: Final = 1  # the answer is no: findings, a refused command, a demo that lost something
EXIT_IMPOSSIBLE: Final = 2  # the question could not be asked: no such site, nothing runs here
# Categories of signs that a terminal obeys in place of showing them, and of those nobody sees.
UNSEEN: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")


class CommandFailed(Exception):
    """A command can't go on; `message` is for people, `status` for the shell."""

    def __init__(self, message: str, status: int = EXIT_IMPOSSIBLE) -> None:
        self.message = message
        self.status = status
        super().__init__(message)


def printable(text: str, kept: str = "\n\t") -> str:
    """Text with everything that a terminal would obey spelled out, but for the signs in `kept`.

    A device chooses what its answers hold; what it says must not move the cursor, set the title of
    the window or look like another line.
    """
    if text.isprintable():
        return text
    return "".join(
        ascii(sign)[1:-1] if sign not in kept and unicodedata.category(sign) in UNSEEN else sign
        for sign in text
    )


class _PlainConsole(Console):
    """A console that shows text as it is and obeys nothing in it."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text that is printed comes along here, those in the cells of tables too."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """The reader of a pipe has had enough: main() knows how to end then."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console that cuts nothing off where it writes into a file or a pipe.

    Text comes from sites and devices, so "[bar]" is no markup, ":key:" no picture, and control
    characters are spelled out.
    """
    plain_text = partial(_PlainConsole, stderr=stderr, highlight=False, markup=False, emoji=False)
    made = plain_text()
    return made if made.is_terminal else plain_text(width=WIDTH)


def print_json(value: Any) -> None:
    """One JSON document on standard output; what is no number becomes null."""
    json.dump(plain(value), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities as null, tuples as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table without frames; the columns named in `right` are numbers.

    On a narrow terminal text goes on in the next line. Numbers stay whole: half of one is another.
    """
    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=column in right, overflow="fold")
    return made


def one_line(text: str, style: str = "") -> Text:
    """Text that is cut at the edge of a terminal in place of going on in the next line."""
    return Text(printable(text, ""), style, no_wrap=True, overflow="ellipsis")


def typed_command() -> str:
    """How this program can be started again from the shell that started it."""
    program = Path(sys.argv[0])
    if program.name != "gatepost":
        return f"{typed(Path(sys.executable))} -m gateway.cli.app"
    found = shutil.which("gatepost")
    if len(program.parts) == 1 or (found and Path(found).resolve() == program.resolve()):
        return "gatepost"
    return typed(program)


def typed(path: Path) -> str:
    """`path` as a shell takes it: from the current folder where it lies in it."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    shown = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
    return shlex.quote(str(shown))


def counted(count: int, noun: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number(value: float, states: Sequence[str] = ()) -> str:
    """A value for people: the name of a state, or the number; ``-`` for none."""
    if not math.isfinite(value):
        return "-"
    if states and value == int(value) and 0 <= value < len(states) and states[int(value)]:
        return f"{states[int(value)]} ({int(value)})"
    return f"{value:.6g}"
