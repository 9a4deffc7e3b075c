"""Records of a damaged SQLite file, read page by page without its trees.

A tree is found from its root downwards, so one torn page hides all that stands below it. A leaf
tells by itself what stands in it. Source: SQLite, "Database File Format", 1.5, 1.6 and 2.1.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sync.errors import StoreReadOnly

_LEAF: Final = 0x0D  # of a table
_HEADER_BYTES: Final = 100  # of the file, on its first page
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes by serial type
_TEXT_MAX: Final = 10_000_000  # of one record; what says more is no record

Value = int | str | bytes | None


class Pages:
    """The pages of a file; nothing is believed that does not fit."""

    def __init__(self, data: mmap.mmap | bytes, size: int) -> None:
        self._data = data
        self._size = size
        self._free = self._freed()

    def _page(self, number: int) -> bytes:
        return self._data[(number - 1) * self._size : number * self._size]

    def _freed(self) -> set[int]:
        """Pages that are in no tree any more, as far as they can be told: they hold old records."""
        free: set[int] = set()
        trunk = struct.unpack_from(">I", self._data, 32)[0]
        while trunk and trunk not in free and len(page := self._page(trunk)) == self._size:
            free.add(trunk)
            trunk, count = struct.unpack_from(">II", page)
            if count <= self._size // 4 - 2:
                free.update(struct.unpack_from(f">{count}I", page, 8))
        return free

    def cells(self) -> Iterator[tuple[int, int]]:
        """Where a record may begin: (page, place on it)."""
        for number in range(1, len(self._data) // self._size + 1):
            begin = _HEADER_BYTES if number == 1 else 0
            if self._data[(number - 1) * self._size + begin] == _LEAF and number not in self._free:
                page = self._page(number)
                count = struct.unpack_from(">H", page, begin + 3)[0]
                if begin + 8 + 2 * count <= self._size:
                    for at in struct.unpack_from(f">{count}H", page, begin + 8):
                        yield number, at

    def rowid(self, cell: tuple[int, int]) -> int:
        """The id of a record. Raises ValueError."""
        page = self._page(cell[0])
        return _signed(_varint(page, _varint(page, cell[1])[1])[0])

    def record(self, cell: tuple[int, int]) -> list[Value]:
        """The columns of a record. Raises ValueError."""
        page = self._page(cell[0])
        length, at = _varint(page, cell[1])
        _, at = _varint(page, at)
        if length > _TEXT_MAX:
            raise ValueError("too long")
        smallest = (self._size - 12) * 32 // 255 - 23
        local = length
        if length > self._size - 35:
            local = smallest + (length - smallest) % (self._size - 4)
            local = local if local <= self._size - 35 else smallest
        found = page[at : at + local]
        if local < length:
            found += self._overflow(page[at + local : at + local + 4], length - local)
        if len(found) != length:
            raise ValueError("cut off")
        return _columns(found)

    def _overflow(self, link: bytes, size: int) -> bytes:
        found = []
        while size > 0:
            number = int.from_bytes(link, "big")
            page = self._page(number) if number else b""
            if len(page) != self._size:
                raise ValueError("no such page")
            found.append(page[4 : 4 + size])
            link, size = page[:4], size - self._size + 4
        return b"".join(found)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number, and where it ends."""
    number = 0
    for count, byte in enumerate(data[at : at + 9]):
        if count == 8:
            return number << 8 | byte, at + 9
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + count + 1
    raise ValueError("cut off")


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _columns(record: bytes) -> list[Value]:
    end, at = _varint(record, 0)
    found: list[Value] = []
    body = end
    while at < end:
        kind, at = _varint(record, at)
        size = _INTEGERS.get(kind, 0) if kind < 12 else (kind - 12) // 2
        part = record[body : body + size]
        if len(part) != size or kind in (7, 10, 11):  # no table of a store has floats
            raise ValueError("no record")
        body += size
        if kind in (0, 8, 9):
            found.append({0: None, 8: 0, 9: 1}[kind])
        elif kind < 12:
            found.append(int.from_bytes(part, "big", signed=True))
        else:
            found.append(bytes(part) if kind % 2 == 0 else part.decode("utf-8", "replace"))
    return found


def records(path: Path, page_bytes: int) -> Iterator[tuple[int, list[Value]]]:
    """Every record that can be read, by its id; records of all tables stand among each other.

    page_bytes  where the file doesn't say so itself

    Raises StoreReadOnly where the file can't be read.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < _HEADER_BYTES:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                size = struct.unpack_from(">H", data, 16)[0]
                pages = Pages(data, size if size in (512, 1024, 2048, 4096, 8192) else page_bytes)
                yield from _in_order(pages)
    except OSError as error:
        raise StoreReadOnly(f"store {path}: can't be read ({error})") from None


def _in_order(pages: Pages) -> Iterator[tuple[int, list[Value]]]:
    found: list[tuple[int, tuple[int, int]]] = []
    for cell in pages.cells():
        try:
            found.append((pages.rowid(cell), cell))
        except ValueError:
            continue
    for number, cell in sorted(found):
        try:
            yield number, pages.record(cell)
        except ValueError:
            continue
