"""A folder on a disk that loses its power: what was done to it, and what may be left of that.

`recording` notes every write, flush, creation, renaming and removal below a folder, of SQLite
(tests/crash/power_vfs.py) and of Python's own files. `Disk` takes the operations one by one and
draws what a cut at that moment can leave behind:

* what was flushed (fsync of the file) is there;
* of everything else each operation is there, or not, or torn at sectors, in any combination: the
  operating system and the drive write in the order they like;
* names (creation, renaming, removal) come in the order in which they were made, up to any of them,
  and at least up to the last flush of their folder: every journaling file system does that.

The model follows ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.crash.power_vfs import shim

SECTOR: Final = 512
# No content that counts: a lock, zeros that hold a place, what SQLite makes anew after a cut.
IGNORED: Final = (".lock", ".reserve", "-shm")


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes handed to the operating system."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file made shorter or longer."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A file flushed."""

    file: int


@dataclass(frozen=True, slots=True)
class Name:
    """A name for a file; 0 removes the name."""

    name: str
    file: int


@dataclass(frozen=True, slots=True)
class Rename:
    """One name in the place of another, at once."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class FolderSync:
    """The folder flushed: its names are durable."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What the program said at this moment, e.g. "stored up to 500"."""

    what: str
    value: Any


Op = Write | Truncate | Sync | Name | Rename | FolderSync | Mark


# ------------------------------------------------------------------------ what is done


class Recorder:
    """Listens to what happens in one folder (not in those below it)."""

    def __init__(self, folder: Path) -> None:
        """The files that are there now are the disk as it was found."""
        self.folder = str(folder)
        self.ops: list[Op] = []
        self._names: dict[str, int] = {}
        self._contents: dict[int, bytes] = {}  # of files that SQLite doesn't write
        self._files = 0
        self.found: dict[str, bytes] = {}
        for path in folder.iterdir():
            if path.is_file() and (name := self._name(str(path))):
                self.found[name] = path.read_bytes()
                self._contents[self._new(name)] = self.found[name]

    def mark(self, what: str, value: Any) -> None:
        """Note what the program promises from now on."""
        self.ops.append(Mark(what, value))

    def _name(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        return "" if folder != self.folder or name.endswith(IGNORED) else name

    def _new(self, name: str) -> int:
        self._files += 1
        self._names[name] = self._files
        return self._files

    # SQLite's side, see power_vfs.Listener

    def created(self, path: str) -> None:
        if name := self._name(path):
            self.ops.append(Name(name, self._new(name)))

    def wrote(self, path: str, offset: int, data: bytes) -> None:
        if name := self._name(path):
            self.ops.append(Write(self._sqlite(name), offset, data))

    def truncated(self, path: str, size: int) -> None:
        if name := self._name(path):
            self.ops.append(Truncate(self._sqlite(name), size))

    def synced(self, path: str, folder: bool) -> None:
        if name := self._name(path):
            self.ops.append(Sync(self._sqlite(name)))
            self.ops += [FolderSync()] if folder else []

    def deleted(self, path: str, folder: bool) -> None:
        if name := self._name(path):
            self._gone(name)
            self.ops += [FolderSync()] if folder else []

    def _sqlite(self, name: str) -> int:
        file = self._names[name]
        self._contents.pop(file, None)
        return file

    def _gone(self, name: str) -> None:
        if self._names.pop(name, 0):
            self.ops.append(Name(name, 0))

    # Python's side

    def look(self, path: str) -> int:
        """Note what Python wrote to a file since the last look; returns its number, 0 for none."""
        name = self._name(path)
        if not name or not os.path.isfile(path):
            return 0
        file = self._names.get(name, 0)
        if not file:
            file = self._new(name)
            self.ops.append(Name(name, file))
            self._contents[file] = b""
        before = self._contents.get(file)
        if before is None:
            return file  # SQLite writes it, and says so
        now = Path(path).read_bytes()
        if now != before:
            if not now.startswith(before):
                self.ops.append(Truncate(file, 0))
                before = b""
            for at in range(len(before), len(now), 4 * SECTOR):
                self.ops.append(Write(file, at, now[at : at + 4 * SECTOR]))
            self._contents[file] = now
        return file

    def flushed(self, descriptor: int) -> None:
        """`os.fsync` of a file or of the folder."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path == self.folder:
            self.ops.append(FolderSync())
        elif file := self.look(path):
            self.ops.append(Sync(file))

    def renaming(self, old: str, new: str) -> None:
        """Before a renaming inside of the folder."""
        file, old_name, new_name = self.look(old), self._name(old), self._name(new)
        if file and new_name:
            self.ops.append(Rename(old_name, new_name))
            self._names[new_name] = self._names.pop(old_name)
        elif file:
            self._gone(old_name)

    def removing(self, path: str) -> None:
        """Before a removal."""
        self.look(path)
        self._gone(self._name(path))


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """Everything that is done in `folder` meanwhile, by this process."""
    recorder = Recorder(folder)
    with shim().watching(recorder), _patched(recorder):
        yield recorder


@contextlib.contextmanager
def _patched(recorder: Recorder) -> Iterator[None]:
    """Python's own calls; flushes cost nothing meanwhile, as this machine keeps its power."""
    real: dict[str, Callable[..., Any]] = {
        name: getattr(os, name) for name in ("fsync", "fdatasync", "rename", "replace", "unlink")
    }

    def flush(file: Any) -> None:
        recorder.flushed(file if isinstance(file, int) else file.fileno())

    def renamed(name: str) -> Callable[..., None]:
        def rename(old: Any, new: Any, **more: Any) -> None:
            recorder.renaming(os.fsdecode(old), os.fsdecode(new))
            real[name](old, new, **more)

        return rename

    def unlink(path: Any, **more: Any) -> None:
        if os.path.exists(path):
            recorder.removing(os.fsdecode(path))
        real["unlink"](path, **more)

    put: dict[str, Callable[..., Any]] = {
        "fsync": flush,
        "fdatasync": flush,
        "rename": renamed("rename"),
        "replace": renamed("replace"),
        "unlink": unlink,
        "remove": unlink,
    }
    real["remove"] = os.remove
    for name, function in put.items():
        setattr(os, name, function)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


# ------------------------------------------------------------------------ what is left


@dataclass
class _File:
    """durable is what was flushed, pending what was not."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)


class Disk:
    """The state of one folder after some operations, as far as it is certain."""

    def __init__(self, found: dict[str, bytes]) -> None:
        self._files = {n: _File(bytearray(found[name])) for n, name in enumerate(found, 1)}
        self._names = {name: n for n, name in enumerate(found, 1)}
        self._pending: list[Name | Rename] = []

    def apply(self, op: Op) -> None:
        """The next operation."""
        if isinstance(op, Write | Truncate):
            self._files[op.file].pending.append(op)
        elif isinstance(op, Sync):
            file = self._files[op.file]
            for one in file.pending:
                _put(file.durable, one)
            file.pending.clear()
        elif isinstance(op, Name | Rename):
            if isinstance(op, Name) and op.file:
                self._files.setdefault(op.file, _File())
            self._pending.append(op)
        elif isinstance(op, FolderSync):
            for change in self._pending:
                _rename(self._names, change)
            self._pending.clear()

    def cut(self, chance: random.Random) -> tuple[str, dict[str, bytes]]:
        """The power goes: how, in a word, and what is found afterwards, by name."""
        how = chance.choice(list(_WAYS))
        names = dict(self._names)
        for change in self._pending[: _how_many(how, len(self._pending), chance)]:
            _rename(names, change)
        left = {}
        for name, number in names.items():
            file = self._files[number]
            content = bytearray(file.durable)
            for op in _WAYS[how](file.pending, chance):
                _put(content, op)
            left[name] = bytes(content)
        return how, left


def _put(content: bytearray, op: Write | Truncate) -> None:
    if isinstance(op, Truncate):
        del content[op.size :]
        content.extend(bytes(op.size - len(content)))
        return
    content.extend(bytes(max(0, op.offset - len(content))))
    content[op.offset : op.offset + len(op.data)] = op.data


def _rename(names: dict[str, int], change: Name | Rename) -> None:
    if isinstance(change, Rename):
        names[change.new] = names.pop(change.old)
    elif change.file:
        names[change.name] = change.file
    else:
        names.pop(change.name, None)


def _how_many(how: str, count: int, chance: random.Random) -> int:
    return {"nothing": 0, "everything": count}.get(how, chance.randint(0, count))


Pending = list[Write | Truncate]


def _torn(op: Write | Truncate, chance: random.Random) -> Pending:
    """Some sectors of a write: the first ones, the last ones, or any."""
    if isinstance(op, Truncate):
        return [op]
    pieces = []
    at = 0
    while at < len(op.data):
        end = min(len(op.data), (op.offset + at) // SECTOR * SECTOR + SECTOR - op.offset)
        pieces.append(Write(op.file, op.offset + at, op.data[at:end]))
        at = end
    where = chance.randint(0, len(pieces))
    kinds: tuple[Callable[[], Pending], ...] = (
        lambda: [*pieces[:where]],
        lambda: [*pieces[where:]],
        lambda: [piece for piece in pieces if chance.random() < 0.5],
    )
    return chance.choice(kinds)()


def _some(pending: Pending, chance: random.Random) -> Pending:
    """Each operation for itself: there, missing or torn."""
    share = chance.choice((0.1, 0.5, 0.9))
    left: Pending = []
    for op in pending:
        if chance.random() < share:
            left += _torn(op, chance) if chance.random() < 0.25 else [op]
    return left


def _first(pending: Pending, chance: random.Random) -> Pending:
    """In order up to one that is torn."""
    where = chance.randint(0, len(pending))
    return [*pending[:where], *(_torn(pending[where], chance) if where < len(pending) else [])]


def _last(pending: Pending, chance: random.Random) -> Pending:
    """The newest alone, the one before them torn: nothing of what they build upon."""
    where = chance.randint(0, len(pending))
    return [*(_torn(pending[where - 1], chance) if where else []), *pending[where:]]


def _all_torn(pending: Pending, chance: random.Random) -> Pending:
    return [piece for op in pending for piece in _torn(op, chance)]


_WAYS: Final[dict[str, Callable[[Pending, random.Random], Pending]]] = {
    "nothing": lambda pending, chance: [],
    "everything": lambda pending, chance: pending,
    "some": _some,
    "the first": _first,
    "the last": _last,
    "all torn": _all_torn,
    "one file": lambda pending, chance: pending if chance.random() < 0.5 else [],
}
