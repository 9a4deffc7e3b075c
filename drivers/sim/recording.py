"""A recorded conversation (`gatepost trace --record`) as a simulated device.

A recording is a file of JSON lines. The first says what it is, the others are frames::

    {"recording": "gatepost", "version": 1, "device": "PSU", "protocol": "SCPI"}
    {"t_ms": 12.5, "sent": true, "text": "VOLT?\\n", "meaning": "query VOLT?"}
    {"t_ms": 14.1, "sent": false, "text": "48.1\\n", "meaning": "answer to VOLT?"}
    {"t_ms": 14.2, "values": {"PSU.Voltage": 48.1}}

Bytes that are no text stand as hexadecimal digits in ``hex``. Lines without `sent` are for people.

The simulator answers a request that was recorded as it was answered then: the first time with the
first answer, and so on; after the last it begins anew. Modbus requests are compared without their
transaction number, and the answer gets the number of the new request. Frames of a serial line are
served as Modbus TCP. What was not recorded is an illegal address in Modbus, and silence in SCPI.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drivers.sim.listener import Listener, Session

MARK: Final = "gatepost"
VERSION: Final = 1
FILE_BYTES_MAX: Final = 256_000_000
LINE_BYTES_MAX: Final = 1_000_000
REQUEST_BYTES_MAX: Final = 65536
DELAY_S_MAX: Final = 10.0
MBAP_BYTES: Final = 7  # transaction, protocol, length, unit
ILLEGAL_ADDRESS: Final = 2

# Communication -> how its frames are cut.
FORMS: Final = {
    "ModbusTcpGeneric": "tcp",
    "ModbusTcp": "tcp",
    "SunSpec": "tcp",
    "ModbusRTU": "rtu",
    "ModbusRTUDouble": "rtu",
    "SCPI": "text",
}


class RecordingError(Exception):
    """The file is no recording, is damaged, or can't be replayed; names file and line."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What went over the wire at once."""

    t_ms: float
    sent: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded conversation with one device."""

    device: str
    protocol: str
    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class Answer:
    """What followed a request; no data = nothing."""

    data: bytes
    delay_s: float


def data_keys(data: bytes) -> dict[str, str]:
    """Bytes as they stand in a recording: as text where they are some, else in hex."""
    if data.isascii():
        text = data.decode("ascii")
        if text.isprintable() or text.rstrip("\r\n").isprintable():
            return {"text": text}
    return {"hex": data.hex()}


def load_recording(path: Path) -> Recording:
    """Read a recording. Raises RecordingError, or OSError where the file can't be read."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise RecordingError(f"{path}: more than {FILE_BYTES_MAX} bytes")
    with path.open("rb") as file:
        lines = _objects(path, file)
        _, head = next(lines, (1, {}))
        if head.get("recording") != MARK:
            raise RecordingError(f"{path}:1: this is no recording of `gatepost trace --record`")
        if head.get("version") != VERSION:
            version = repr(head.get("version"))[:40]
            raise RecordingError(
                f"{path}:1: version {version} is unknown, this gatepost plays version {VERSION}"
            )
        frames = [_frame(f"{path}:{number}", line) for number, line in lines if "sent" in line]
    return Recording(str(head.get("device", "")), str(head.get("protocol", "")), frames)


def _objects(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    while raw := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(raw) > LINE_BYTES_MAX:
            raise RecordingError(f"{path}:{number}: the line is longer than any frame")
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError) as error:  # ValueError: no UTF-8 as well
            cut = "" if raw.endswith(b"\n") else "; the recording was cut off here"
            raise RecordingError(f"{path}:{number}: this is no JSON ({error}){cut}") from error
        if not isinstance(line, dict):
            raise RecordingError(f"{path}:{number}: a line must be a JSON object")
        yield number, line


def _frame(where: str, line: Mapping[str, Any]) -> Frame:
    t_ms, sent = line.get("t_ms"), line.get("sent")
    if isinstance(t_ms, bool) or not isinstance(t_ms, int | float) or not 0 <= t_ms < 1e15:
        raise RecordingError(f"{where}: t_ms must be a number of milliseconds")
    if not isinstance(sent, bool):
        raise RecordingError(f"{where}: sent must be true or false")
    text, digits = line.get("text"), line.get("hex")
    if (text is None) == (digits is None):
        raise RecordingError(f"{where}: a frame has either text or hex")
    key, chars = ("hex", digits) if text is None else ("text", text)
    if not isinstance(chars, str):
        raise RecordingError(f"{where}: {key} must be a string")
    try:
        data = bytes.fromhex(chars) if text is None else chars.encode("ascii")
    except ValueError as error:
        raise RecordingError(f"{where}: {key}: {error}") from error
    return Frame(float(t_ms), sent, data)


# ---------------------------------------------------------------- requests and their answers


def exchanges(recording: Recording) -> dict[bytes, list[Answer]]:
    """Request, without what changes each time -> its answers in order. Raises RecordingError."""
    form = FORMS.get(recording.protocol)
    if form is None:
        known = ", ".join(FORMS)
        raise RecordingError(
            f"a recording of {recording.protocol[:40] or 'no protocol'} can't be replayed; "
            f"{known} can"
        )
    pairs = _numbered(recording) if form == "tcp" else _in_turn(recording, form)
    found: dict[bytes, list[Answer]] = {}
    for request, answer in pairs:
        found.setdefault(request, []).append(answer)
    if not found:
        raise RecordingError(f"the recording of {recording.device} holds no request")
    return found


def _numbered(recording: Recording) -> Iterator[tuple[bytes, Answer]]:
    """Modbus TCP: an answer belongs to the request of its transaction number."""
    waiting: dict[bytes, tuple[bytes, float]] = {}
    streams = {True: bytearray(), False: bytearray()}
    for frame in recording.frames:
        stream = streams[frame.sent]
        stream += frame.data
        for adu in _adus(stream):
            number, rest = adu[:2], adu[6:]
            if frame.sent:
                if number in waiting:
                    yield waiting[number][0], Answer(b"", 0.0)
                waiting[number] = (rest, frame.t_ms)
            elif number in waiting:
                request, t_ms = waiting.pop(number)
                yield request, Answer(rest, _delay_s(t_ms, frame.t_ms))
    for request, _ in waiting.values():
        yield request, Answer(b"", 0.0)


def _adus(stream: bytearray) -> Iterator[bytes]:
    """Whole Modbus TCP frames, taken from the front; what is none empties the stream."""
    while len(stream) >= MBAP_BYTES:
        length = int.from_bytes(stream[4:6], "big")
        if stream[2:4] != b"\0\0" or not 2 <= length <= 254:
            stream.clear()
            return
        if len(stream) < 6 + length:
            return
        yield bytes(stream[: 6 + length])
        del stream[: 6 + length]


def _in_turn(recording: Recording, form: str) -> Iterator[tuple[bytes, Answer]]:
    """One request after the other: what comes before the next one is the answer."""
    request, answer, asked_ms, delay_s = b"", b"", 0.0, 0.0
    for frame in recording.frames:
        if frame.sent:
            if request:
                yield request, Answer(_bare(answer, form), delay_s)
            request, answer, asked_ms, delay_s = _bare(frame.data, form), b"", frame.t_ms, 0.0
        elif request:
            answer += frame.data
            delay_s = _delay_s(asked_ms, frame.t_ms)
    if request:
        yield request, Answer(_bare(answer, form), delay_s)


def _bare(data: bytes, form: str) -> bytes:
    """A line without its end; a serial Modbus frame without its checksum."""
    return data.rstrip(b"\r\n") if form == "text" else data[:-2]


def _delay_s(asked_ms: float, answered_ms: float) -> float:
    return min(max(0.0, answered_ms - asked_ms) / 1000, DELAY_S_MAX)


# ---------------------------------------------------------------- the server


class RecordingServer(Listener):
    """Plays a recording on a TCP port; `timing` keeps the recorded delays."""

    def __init__(
        self,
        recording: Recording,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        timing: bool = False,
    ) -> None:
        """Raises RecordingError where the recording can't be replayed."""
        super().__init__(host=host, port=port)
        self.form = FORMS.get(recording.protocol, "")
        self.timing = timing
        self.unknown = 0  # requests that were not recorded
        self._answers = exchanges(recording)
        self._next = dict.fromkeys(self._answers, 0)

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return _TextReplay(self) if self.form == "text" else _ModbusReplay(self)

    def answer_to(self, request: bytes) -> Answer | None:
        """The next recorded answer to a request; None where it was not recorded."""
        self.requests += 1
        answers = self._answers.get(request)
        if answers is None:
            self.unknown += 1
            return None
        turn = self._next[request]
        self._next[request] = (turn + 1) % len(answers)
        return answers[turn]


class _Replay(Session):
    def __init__(self, server: RecordingServer) -> None:
        super().__init__(server)
        self.server = server

    def reply(self, answer: Answer, data: bytes) -> None:
        """Send `data`, as late as it was recorded where that is wanted."""
        if self.server.timing and answer.delay_s > 0:
            asyncio.get_running_loop().call_later(answer.delay_s, self.answer, data)
        else:
            self.answer(data)


class _ModbusReplay(_Replay):
    def data_received(self, data: bytes) -> None:
        """Cut the stream into requests; closes where it is none."""
        self.buffer += data
        taken = 0
        held = len(self.buffer)
        for adu in _adus(self.buffer):
            taken += len(adu)
            self._take(adu)
        if taken + len(self.buffer) < held:  # the rest was thrown away as no Modbus
            self.drop()

    def _take(self, adu: bytes) -> None:
        request = adu[6:]
        answer = self.server.answer_to(request)
        if answer is None:
            refusal = bytes((request[0], request[1] | 0x80, ILLEGAL_ADDRESS))
            answer = Answer(refusal, 0.0)
        if answer.data:
            head = adu[:4] + len(answer.data).to_bytes(2, "big")
            self.reply(answer, head + answer.data)


class _TextReplay(_Replay):
    def data_received(self, data: bytes) -> None:
        """Cut the stream into lines; closes where one is longer than any."""
        self.buffer += data
        while (end := self.buffer.find(b"\n")) >= 0:
            line = bytes(self.buffer[:end]).rstrip(b"\r")
            del self.buffer[: end + 1]
            answer = self.server.answer_to(line)
            if answer is not None and answer.data:
                self.reply(answer, answer.data + b"\n")
        if len(self.buffer) > REQUEST_BYTES_MAX:
            self.drop()
