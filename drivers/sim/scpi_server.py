"""An SCPI instrument on a raw socket: newline-framed text, `;`-joined messages.

Source: SCPI-1999 volume 1, section 6.2.4 (the header path of joined messages), and IEEE 488.2
(an instrument that can't answer a query answers nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from drivers.sim.listener import Listener, Session

LINE_BYTES_MAX: Final = 65536

Handler = Callable[[str], str | None]


def split_messages(line: str) -> Iterator[str]:
    """The messages of one line, each with its whole header.

    ``SOUR:VOLT 5;CURR 1;:OUTP ON`` gives ``SOUR:VOLT 5``, ``SOUR:CURR 1``, ``OUTP ON``: a message
    without a leading colon continues in the path of the one before it, and a common command
    (``*IDN?``) does not touch the path. A semicolon between quotes joins nothing.
    """
    path = ""
    for part in _outside_quotes(line):
        message = part.strip()
        if not message:
            continue
        if message.startswith("*"):
            yield message
            continue
        message = message[1:] if message.startswith(":") else path + message
        header = message.split(maxsplit=1)[0] if message else ""
        path = header[: header.rfind(":") + 1]
        if message:
            yield message


def _outside_quotes(line: str) -> Iterator[str]:
    start, quote = 0, ""
    for position, sign in enumerate(line):
        if quote:
            if sign == quote:
                quote = ""
        elif sign in "\"'":
            quote = sign
        elif sign == ";":
            yield line[start:position]
            start = position + 1
    yield line[start:]


class ScpiServer(Listener):
    """An instrument whose behaviour is a function: message in, answer out, None for no answer.

    The answers of joined messages leave as one line, joined by semicolons.
    """

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.handler = handler

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return _ScpiSession(self)


class _ScpiSession(Session):
    """Cuts the stream into lines; closes where a line is longer than any message."""

    def __init__(self, server: ScpiServer) -> None:
        super().__init__(server)
        self.server = server

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\n")) >= 0:
            line = bytes(self.buffer[:end])
            del self.buffer[: end + 1]
            self._take(line.decode("ascii", "replace").rstrip("\r"))
        if len(self.buffer) > LINE_BYTES_MAX:
            self.drop()

    def _take(self, line: str) -> None:
        server = self.server
        server.requests += 1
        if server.faults.silent or server.faults.exception_code:
            return
        answers = [server.handler(message) for message in split_messages(line)]
        text = ";".join(answer for answer in answers if answer is not None)
        if text:
            self.answer(text.encode("ascii", "replace") + b"\n")
