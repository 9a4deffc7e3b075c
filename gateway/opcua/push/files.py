"""Trust lists that clients have open: what they read is a copy, what they write counts at its end.

OPC 10000-20, 4.2 (FileType) as OPC 10000-12, 7.8.2 narrows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from asyncua import ua

from gateway.opcua.methods import MethodFault
from gateway.opcua.push.lists import LIST_BYTES_MAX
from gateway.opcua.transport.session import Session

SESSION_FILES_MAX: Final = 2
FILES_MAX: Final = 10  # of all sessions together
READ_BYTES_MAX: Final = 262_144  # at once
_CODES: Final = ua.StatusCodes


@dataclass(slots=True, eq=False)
class File:
    """One open file: whose, of which trust list, and what is in it."""

    handle: int
    session: Session
    node: ua.NodeId
    data: bytearray
    writing: bool
    position: int = 0


class Files:
    """All open files of the server; those of a session are closed with it."""

    def __init__(self, session_gone: Callable[[Session], None]) -> None:
        """`session_gone` is called when a session ends that had a file open."""
        self._files: dict[int, File] = {}
        self._numbers = count(1)
        self._session_gone = session_gone

    def count(self, node: ua.NodeId) -> int:
        """How often a trust list is open."""
        return sum(file.node == node for file in self._files.values())

    def written(self, session: Session | None = None, node: ua.NodeId | None = None) -> bool:
        """True where a file is open for writing; of a session, or a node, if given."""
        return any(
            file.writing and session in (None, file.session) and node in (None, file.node)
            for file in self._files.values()
        )

    def check_room(self, session: Session) -> None:
        """Raise MethodFault where a session may open no more."""
        mine = sum(file.session is session for file in self._files.values())
        if mine >= SESSION_FILES_MAX or len(self._files) >= FILES_MAX:
            raise MethodFault(_CODES.BadResourceUnavailable, "too many files are open")

    def open(self, session: Session, node: ua.NodeId, data: bytes, *, writing: bool) -> int:
        """Open a file; returns its handle. Raises MethodFault."""
        self.check_room(session)
        if session.closed:
            raise MethodFault(_CODES.BadSessionClosed, "the session has ended")
        self.follow(session)
        handle = next(self._numbers)
        self._files[handle] = File(handle, session, node, bytearray(data), writing)
        return handle

    def follow(self, session: Session) -> None:
        """Close a session's files with it, and tell."""
        if "push" not in session.kept:
            session.kept["push"] = True
            session.at_end(lambda _: self._end(session))

    def _end(self, session: Session) -> None:
        self.close_all(session)
        self._session_gone(session)

    def close_all(self, session: Session, *, writing: bool = False) -> None:
        """Close a session's files; with `writing` only those that are written."""
        for file in list(self._files.values()):
            if file.session is session and file.writing >= writing:
                del self._files[file.handle]

    def get(self, session: Session, node: ua.NodeId, handle: int) -> File:
        """The file of a handle. Raises MethodFault."""
        file = self._files.get(handle)
        if file is None or file.session is not session or file.node != node:
            raise MethodFault(_CODES.BadInvalidArgument, f"no file {handle} is open here")
        return file

    def close(self, file: File) -> None:
        """Close a file; what was written is forgotten."""
        self._files.pop(file.handle, None)

    def read(self, file: File, size: int) -> bytes:
        """The next bytes, `READ_BYTES_MAX` at most; none at the end. Raises MethodFault."""
        if file.writing:
            raise MethodFault(_CODES.BadInvalidState, "the file is open for writing")
        if size < 0:
            raise MethodFault(_CODES.BadInvalidArgument, "a length below zero")
        part = bytes(file.data[file.position : file.position + min(size, READ_BYTES_MAX)])
        file.position += len(part)
        return part

    def write(self, file: File, data: bytes) -> None:
        """Write at the position. Raises MethodFault."""
        if not file.writing:
            raise MethodFault(_CODES.BadInvalidState, "the file is open for reading")
        if file.position + len(data) > LIST_BYTES_MAX:
            reason = f"a trust list has {LIST_BYTES_MAX} bytes at most"
            raise MethodFault(_CODES.BadRequestTooLarge, reason)
        file.data[file.position : file.position + len(data)] = data
        file.position += len(data)

    def move(self, file: File, position: int) -> None:
        """Set the position; behind the end it is the end."""
        file.position = min(position, len(file.data))
