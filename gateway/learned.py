"""What the gateway learned about devices and keeps over restarts: the blocks that they refuse.

A JSON file, ``{"<instrument>": ["<label of a block>", ...]}``. Losing it costs a few refused
requests at the next start, so a damaged one is reported and begun anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.core.files import replace_file

LABELS_MAX: Final = 5_000  # of one device
FILE_BYTES_MAX: Final = 16_000_000


class LearnedError(Exception):
    """The file can't be read or written; the message names it and says why."""


class Learned:
    """Labels of refused blocks, by instrument."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._labels: dict[str, dict[str, None]] = {}

    def load(self) -> None:
        """Read the file; no file is a first start. Raises LearnedError."""
        try:
            with self._path.open("rb") as file:
                content = json.loads(file.read(FILE_BYTES_MAX))
            for name, labels in content.items():
                if not isinstance(labels, list):
                    raise TypeError(f"no list of labels of {name}")
                self._labels[name] = {str(label): None for label in labels[-LABELS_MAX:]}
        except FileNotFoundError:
            return
        except OSError as error:
            raise LearnedError(f"{self._path}: {error.strerror}") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self._labels.clear()
            text = f"{self._path}: damaged ({error}); what devices refuse is learned anew"
            raise LearnedError(text) from error

    def labels(self, name: str) -> Collection[str]:
        """What is known of one instrument."""
        return self._labels.get(name, {}).keys()

    def keep(self, names: Collection[str]) -> None:
        """Forget instruments that the site does not have."""
        self._labels = {name: self._labels[name] for name in self._labels if name in names}

    def add(self, name: str, labels: Collection[str]) -> None:
        """Note refused blocks; the oldest are forgotten where a device has too many."""
        known = self._labels.setdefault(name, {})
        known.update(dict.fromkeys(labels))
        while len(known) > LABELS_MAX:
            del known[next(iter(known))]

    def content(self) -> dict[str, list[str]]:
        """What is known now, for `save`."""
        return {name: list(labels) for name, labels in self._labels.items()}

    def save(self, content: Mapping[str, Sequence[str]]) -> None:
        """Replace the file; may run in a thread. Raises LearnedError."""
        lines = [f"{json.dumps(name)}: {json.dumps(content[name])}" for name in sorted(content)]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        if len(text) >= FILE_BYTES_MAX:
            raise LearnedError(f"{self._path}: too much to keep; the file stays as it is")
        try:
            replace_file(self._path, text)
        except OSError as error:
            raise LearnedError(f"{self._path}: {error.strerror}") from error
