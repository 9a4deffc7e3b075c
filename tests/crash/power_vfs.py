"""A SQLite VFS over the default one that records what goes to the disk, and when it is flushed.

It stands in the library that Python's `_sqlite3` is linked to, so that production code opens its
files as always. Reads, locks and shared memory stay the default VFS's own: a file is opened by it,
and only four entries of its table of methods are replaced (https://www.sqlite.org/c3ref/vfs.html,
https://www.sqlite.org/c3ref/io_methods.html).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

_NAME: Final = b"gatepost-power"
_CREATE: Final = 0x00000004
# Files whose folder the unix VFS flushes with their first flush (os_unix.c, UNIXFILE_DIRSYNC).
_JOURNALS: Final = 0x00000800 | 0x00004000 | 0x00080000  # main journal, super-journal, WAL

_VOID: Final = ctypes.c_void_p
_INT: Final = ctypes.c_int
_I64: Final = ctypes.c_int64
_CLOSE: Final = ctypes.CFUNCTYPE(_INT, _VOID)
_WRITE: Final = ctypes.CFUNCTYPE(_INT, _VOID, _VOID, _INT, _I64)
_TRUNCATE: Final = ctypes.CFUNCTYPE(_INT, _VOID, _I64)
_SYNC: Final = ctypes.CFUNCTYPE(_INT, _VOID, _INT)
# A name travels as a pointer: the VFS keeps it, and what stands behind it, as long as the file.
_OPEN: Final = ctypes.CFUNCTYPE(_INT, _VOID, _VOID, _VOID, _INT, ctypes.POINTER(ctypes.c_int))
_DELETE: Final = ctypes.CFUNCTYPE(_INT, _VOID, _VOID, _INT)


class _Methods(ctypes.Structure):
    """struct sqlite3_io_methods, version 3."""

    _fields_ = [
        ("iVersion", _INT),
        ("xClose", _VOID),
        ("xRead", _VOID),
        ("xWrite", _VOID),
        ("xTruncate", _VOID),
        ("xSync", _VOID),
        *((f"x{number}", _VOID) for number in range(13)),
    ]


class _Vfs(ctypes.Structure):
    """struct sqlite3_vfs, version 3."""

    _fields_ = [
        ("iVersion", _INT),
        ("szOsFile", _INT),
        ("mxPathname", _INT),
        ("pNext", _VOID),
        ("zName", ctypes.c_char_p),
        ("pAppData", _VOID),
        ("xOpen", _VOID),
        ("xDelete", _VOID),
        *((f"x{number}", _VOID) for number in range(14)),
    ]


class ShimMissing(Exception):
    """This Python's SQLite can't be watched; the message says what is missing."""


class Listener(Protocol):
    """Who hears what SQLite does with files; every path is absolute."""

    def created(self, path: str) -> None:
        """A file that was not there before."""

    def wrote(self, path: str, offset: int, data: bytes) -> None:
        """Bytes handed to the operating system, not to the disk."""

    def truncated(self, path: str, size: int) -> None:
        """The file was cut, or made longer."""

    def synced(self, path: str, folder: bool) -> None:
        """The file was flushed; where `folder`, its folder too."""

    def deleted(self, path: str, folder: bool) -> None:
        """The file was removed; where `folder`, its folder was flushed."""


class Shim:
    """The VFS of this process. Use `shim()`: a table that SQLite knows must never go away."""

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self.opened = 0
        self._library = _library()
        self._default = self._library.sqlite3_vfs_find(None)
        self._real = ctypes.cast(self._default, ctypes.POINTER(_Vfs)).contents
        if self._real.zName != b"unix" or self._real.iVersion < 3:
            raise ShimMissing(f"the default VFS is {self._real.zName!r}, not SQLite's own for unix")
        self._vfs = _Vfs.from_buffer_copy(self._real)
        self._vfs.zName, self._vfs.pNext = _NAME, None
        self._open = _OPEN(self._on_open)
        self._delete = _DELETE(self._on_delete)
        self._vfs.xOpen = ctypes.cast(self._open, _VOID)
        self._vfs.xDelete = ctypes.cast(self._delete, _VOID)
        self._real_open = _OPEN(self._real.xOpen)
        self._real_delete = _DELETE(self._real.xDelete)
        self._tables: dict[int, _Methods] = {}
        self._kept: list[Any] = []
        self._paths: dict[int, str] = {}
        self._folders: set[int] = set()  # files whose folder is flushed with them
        if self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 0):
            raise ShimMissing("sqlite3_vfs_register refuses a second VFS")
        self._prove()

    def _prove(self) -> None:
        """The library found must be the one that the module uses, not a second copy of it."""
        before = self.opened
        with contextlib.suppress(sqlite3.OperationalError):
            uri = f"file:///dev/null?mode=ro&vfs={_NAME.decode()}"
            sqlite3.connect(uri, uri=True).close()
        if self.opened == before:
            raise ShimMissing(
                "the SQLite library that ctypes finds is not the one inside Python's _sqlite3: "
                "that one is linked in without its symbols"
            )

    @contextlib.contextmanager
    def watching(self, listener: Listener) -> Iterator[None]:
        """Every SQLite file that is opened meanwhile is heard, and its flushes cost nothing."""
        assert self.listener is None, "somebody listens already"
        self.listener = listener
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)
        try:
            yield
        finally:
            self._library.sqlite3_vfs_register(self._default, 1)
            self.listener = None

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
        self.opened += 1
        path = os.fsdecode(ctypes.string_at(name)) if name else ""
        new = bool(path and flags & _CREATE) and not os.path.exists(path)
        code = self._real_open(vfs, name, file, flags, out)
        methods = ctypes.cast(file, ctypes.POINTER(_VOID))
        if code or not methods[0] or not path:
            return int(code)
        methods[0] = ctypes.addressof(self._table(methods[0]))
        self._paths[file] = path
        if new:
            if flags & _JOURNALS:
                self._folders.add(file)
            if self.listener:
                self.listener.created(path)
        return 0

    def _on_delete(self, vfs: int, name: int, folder: int) -> int:
        code = self._real_delete(vfs, name, 0)
        if not code and self.listener:
            self.listener.deleted(os.fsdecode(ctypes.string_at(name)), bool(folder))
        return int(code)

    def _table(self, address: int) -> _Methods:
        """The methods of a kind of file with four of them replaced."""
        table = self._tables.get(address)
        if table is None:
            real = _Methods.from_address(address)
            table = _Methods.from_buffer_copy(real)
            for name, kind, make in (
                ("xClose", _CLOSE, self._close),
                ("xWrite", _WRITE, self._write),
                ("xTruncate", _TRUNCATE, self._truncate),
                ("xSync", _SYNC, self._sync),
            ):
                entry = kind(make(kind(getattr(real, name))))
                self._kept.append(entry)
                setattr(table, name, ctypes.cast(entry, _VOID))
            self._tables[address] = table
        return table

    def _close(self, real: Callable[..., int]) -> Callable[..., int]:
        def close(file: int) -> int:
            self._paths.pop(file, None)
            self._folders.discard(file)
            return real(file)

        return close

    def _write(self, real: Callable[..., int]) -> Callable[..., int]:
        def write(file: int, data: int, size: int, offset: int) -> int:
            code = real(file, data, size, offset)
            if not code and self.listener:
                content = ctypes.string_at(data, size)
                self.listener.wrote(self._paths[file], offset, content)
            return code

        return write

    def _truncate(self, real: Callable[..., int]) -> Callable[..., int]:
        def truncate(file: int, size: int) -> int:
            code = real(file, size)
            if not code and self.listener:
                self.listener.truncated(self._paths[file], size)
            return code

        return truncate

    def _sync(self, real: Callable[..., int]) -> Callable[..., int]:
        def sync(file: int, flags: int) -> int:
            if not self.listener:
                return real(file, flags)
            self.listener.synced(self._paths[file], file in self._folders)
            self._folders.discard(file)
            return 0

        return sync


def _library() -> Any:
    """The SQLite inside Python's `_sqlite3`: looking there finds what it is linked to as well."""
    import _sqlite3

    for place in (getattr(_sqlite3, "__file__", None), None):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(place)
            library.sqlite3_vfs_find.restype = _VOID
            library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
            library.sqlite3_vfs_register.argtypes = [_VOID, _INT]
            return library
    raise ShimMissing("Python's _sqlite3 shows no sqlite3_vfs_register: SQLite is linked in hidden")


_shims: list[Shim] = []


def shim() -> Shim:
    """The one VFS of this process. Raises ShimMissing."""
    if not _shims:
        _shims.append(Shim())
    return _shims[0]
