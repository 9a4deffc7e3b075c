"""The operator Like (OPC 10000-4, 7.7.3): % is any text, _ one sign, [] a set, \\ takes a sign."""

from __future__ import annotations

import re
from typing import Final

PATTERN_CHARS_MAX: Final = 128


class Like:
    """A pattern. The pieces between % are looked for one behind the other.

    So no pattern makes the search go back and forth: one big regular expression could be made to
    take for ever.
    """

    def __init__(self, pattern: str) -> None:
        """Raises ValueError where the pattern is too long or a set has no end."""
        if len(pattern) > PATTERN_CHARS_MAX:
            raise ValueError("too long")
        pieces = _pieces(pattern)
        self._whole = re.compile(pieces[0], re.DOTALL) if len(pieces) == 1 else None
        self._first = re.compile(pieces[0], re.DOTALL)
        self._last = re.compile(pieces[-1] + r"\Z", re.DOTALL)
        self._between = [re.compile(piece, re.DOTALL) for piece in pieces[1:-1] if piece]

    def fits(self, text: str) -> bool:
        """True where the whole text is as the pattern says."""
        if self._whole is not None:
            return self._whole.fullmatch(text) is not None
        found = self._first.match(text)
        for piece in self._between:
            if found is not None:
                found = piece.search(text, found.end())
        return found is not None and self._last.search(text, found.end()) is not None


def _pieces(pattern: str) -> list[str]:
    """Regular expressions of what stands between the %."""
    pieces, at = [""], 0
    while at < len(pattern):
        sign = pattern[at]
        at += 1
        if sign == "%":
            pieces.append("")
        elif sign == "_":
            pieces[-1] += "."
        elif sign == "[":
            end = pattern.find("]", at)
            if end <= at:
                raise ValueError("a set has no end or nothing in it")
            pieces[-1] += _set(pattern[at:end])
            at = end + 1
        elif sign == "\\" and at < len(pattern):
            pieces[-1] += re.escape(pattern[at])
            at += 1
        else:
            pieces[-1] += re.escape(sign)
    return pieces


def _set(inside: str) -> str:
    """``[abc]``, ``[a-f]`` or ``[^a]`` as a regular expression."""
    sign = "^" if inside[0] == "^" else ""
    signs = inside[1:] if sign else inside
    if not signs:
        raise ValueError("nothing in a set")
    found, at = "", 0
    while at < len(signs):
        if at + 2 < len(signs) and signs[at + 1] == "-":
            first, last = signs[at], signs[at + 2]
            if first > last:
                raise ValueError("a range goes backwards")
            found += f"{re.escape(first)}-{re.escape(last)}"
            at += 3
        else:
            found += re.escape(signs[at])
            at += 1
    return f"[{sign}{found}]"
