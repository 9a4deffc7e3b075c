"""What all commands share: how they end badly, and how they print."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table

WIDTH: Final = 500  # columns of a console that is no terminal
EXIT_BAD: Final = 1  # the answer is no: findings, a refused command, a demo that lost something
EXIT_IMPOSSIBLE: Final = 2  # the question could not be asked: no such site, nothing runs here


class CommandFailed(Exception):
    """A command can't go on; `message` is for people, `status` for the shell."""

    def __init__(self, message: str, status: int = EXIT_IMPOSSIBLE) -> None:
        self.message = message
        self.status = status
        super().__init__(message)


def console(*, stderr: bool = False) -> Console:
    """A console that cuts nothing off where it writes into a file or a pipe."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)


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
    """A table without frames; the columns named in `right` are numbers, the last one may wrap."""
    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for place, column in enumerate(columns, start=1):
        justify: Literal["left", "right"] = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=place < len(columns), overflow="fold")
    return made


def number(value: float, states: Sequence[str] = ()) -> str:
    """A value for people: the name of a state, or the number; ``-`` for none."""
    if not math.isfinite(value):
        return "-"
    if states and value == int(value) and 0 <= value < len(states) and states[int(value)]:
        return f"{states[int(value)]} ({int(value)})"
    return f"{value:.6g}"
