"""Site files as bytes to JSON values: encoding, syntax, doubled keys, numbers out of range.

Nothing here knows what a file means. Every mistake becomes a finding; nothing raises on bad
content, whatever the bytes are.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from config.findings import Finding, printable

FILE_BYTES_MAX: Final = 10_000_000
DEPTH_MAX: Final = 64  # levels of objects and lists; the deepest rule that makes sense has ten
NUMBER_ABS_MAX: Final = 1e300  # beyond it products and sums in a rule would overflow
FINDINGS_PER_FILE_MAX: Final = 200  # a wrong file of 10 MB shall not print a million lines


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys stood in it more than once."""

    doubled: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        doubled: dict[str, None] = {}
        for key, _ in pairs:
            if key in seen:
                doubled[key] = None
            seen.add(key)
        made.doubled = tuple(doubled)
    return made


@dataclass(slots=True)
class Files:
    """Reads files of one site folder, and keeps their bytes for the configuration's hash."""

    folder: Path
    findings: list[Finding] = field(default_factory=list)
    used: dict[str, bytes] = field(default_factory=dict)

    def exists(self, name: str) -> bool:
        """True where `name` is a file inside the folder."""
        path = self._inside(name)
        return path is not None and _is_file(path)

    def stands(self, name: str) -> bool:
        """True where the folder has an entry of this name, of whatever kind."""
        return os.path.lexists(self.folder / name)

    def escapes(self, name: str) -> bool:
        """True where `name` leads out of the folder, or is no name of a file at all."""
        return self._inside(name) is None

    def json(self, name: str) -> Any | None:
        """The content of a file, or None with findings where it can't be used."""
        raw = self._bytes(name)
        if raw is None:
            return None
        self.used[name] = raw
        value, findings = parse_json(name, raw)
        self.findings += findings
        return None if findings else value

    def _inside(self, name: str) -> Path | None:
        # Backslashes and drive letters lead out on Windows only, but a folder is carried from
        # one machine to the other, so they are refused everywhere.
        if not name.strip() or "\0" in name or "\\" in name or ":" in name:
            return None
        try:
            path = (self.folder / name).resolve()
            root = self.folder.resolve()
        except (OSError, RuntimeError):  # RuntimeError: a loop of symbolic links
            return None
        return path if path.is_relative_to(root) and path != root else None

    def _bytes(self, name: str) -> bytes | None:
        path = self._inside(name)
        if path is None:
            self._add(name, "path-escape", "The name leads out of the site folder.")
            return None
        try:
            about = path.stat()
            size = about.st_size
            if not stat.S_ISREG(about.st_mode):  # reading a pipe would wait for a writer
                self._add(name, "file-unreadable", "A folder or a device, not a file of JSON.")
                return None
            if size > FILE_BYTES_MAX:
                self._add(
                    name,
                    "file-too-large",
                    f"The file has {size} bytes; site files have at most {FILE_BYTES_MAX}.",
                )
                return None
            return path.read_bytes()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self._add(
                name, "file-unreadable", f"Can't be read: {reason}. Check its kind and rights."
            )
            return None

    def _add(self, name: str, rule: str, message: str) -> None:
        self.findings.append(Finding(printable(name), "", rule, message))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # e.g. a name that is longer than the file system takes
        return False


def join_key(path: tuple[str | int, ...]) -> str:
    """A path of keys as findings show it: ``Channels.Control_Valve.Tags[2]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + printable(part)
    return text


def parse_json(name: str, raw: bytes) -> tuple[Any, list[Finding]]:
    """Bytes of a file to a JSON value. The value counts only where there is no finding.

    A byte-order mark in UTF-8 is accepted, since editors of Windows write one.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return None, [
            Finding(
                name,
                f"line {line}",
                "file-encoding",
                f"Byte {error.start} is not UTF-8. Save the file as UTF-8.",
            )
        ]
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        return None, [Finding(name, place, "json-syntax", _syntax_message(error))]
    except RecursionError:
        return None, [_too_deep(name)]
    except ValueError:  # a whole number of thousands of digits
        return None, [
            Finding(name, "", "number-range", "A number has too many digits. Shorten it.")
        ]
    findings: list[Finding] = []
    for finding in _examine(name, value):
        findings.append(finding)
        if len(findings) == FINDINGS_PER_FILE_MAX:
            break
    return value, findings


def _syntax_message(error: json.JSONDecodeError) -> str:
    if not error.doc.strip():
        return "The file is empty. A JSON object is expected: { ... }."
    rest = error.doc[error.pos : error.pos + 1]
    found = f"; found {printable(rest)!r}" if rest else "; the file ends here"
    reason = error.msg.removesuffix(" starting at")
    return f"No valid JSON: {reason}{found}. Look there and just before it."


def _too_deep(name: str) -> Finding:
    return Finding(
        name, "", "json-depth", f"Nested deeper than {DEPTH_MAX} levels. Split the rule."
    )


def _examine(name: str, root: Any) -> Iterator[Finding]:
    """Findings about a parsed value: doubled keys, numbers, text. Walks without recursion."""
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), root)]
    while todo:
        path, value = todo.pop()
        if len(path) > DEPTH_MAX:
            yield _too_deep(name)
            return
        if isinstance(value, _Object):
            for key in value.doubled:
                yield Finding(
                    name,
                    join_key((*path, key)),
                    "json-duplicate-key",
                    "This key stands more than once in its object, and only one of them could "
                    "count. Remove or rename the others.",
                )
            todo.extend(((*path, key), item) for key, item in reversed(value.items()))
            for key in value:
                if not _encodable(key):
                    yield _bad_text(name, (*path, key))
        elif isinstance(value, list):
            todo.extend(((*path, i), value[i]) for i in range(len(value) - 1, -1, -1))
        elif isinstance(value, str):
            if not _encodable(value):
                yield _bad_text(name, path)
        elif isinstance(value, int | float) and not _representable(value):
            yield Finding(
                name,
                join_key(path),
                "number-range",
                "NaN, infinite or larger than 1e300. Write a finite number.",
            )


def _representable(number: int | float) -> bool:
    if isinstance(number, int):
        # Beyond 64 bits no device and no column can hold it.
        return -(2**63) <= number < 2**64
    return math.isfinite(number) and abs(number) <= NUMBER_ABS_MAX


def _encodable(text: str) -> bool:
    # "\ud800" alone is legal JSON and no Unicode text: it can be neither printed nor sent.
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _bad_text(name: str, path: tuple[str | int, ...]) -> Finding:
    return Finding(
        name,
        join_key(path),
        "file-encoding",
        "Half of a Unicode pair (\\ud800 to \\udfff). Remove it.",
    )
