"""IEEE C37.118.2-2011 in bytes: frames and configurations, both ways. Data: drivers/pmu/data.py.

A frame is a head of 14 bytes (sync, type, size, IDCODE, second, fraction), a body and a CRC-CCITT
that starts at 0xFFFF. All numbers are big-endian. Nothing here waits or keeps a connection.

Sources: IEEE Std C37.118.2-2011, section 6.2 (frames), 6.4 with Tables 8 to 12 (configurations 1,
2 and 3), 6.6 with Table 15 (commands).
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from drivers.errors import Garbled

SYNC: Final = 0xAA
VERSION_2005: Final = 1
HEAD: Final = struct.Struct(">BBHHII")  # sync, type and version, size, IDCODE, SOC, FRACSEC
FRAME_BYTES_MIN: Final = HEAD.size + 2
FRAME_BYTES_MAX: Final = 65535
CONFIGURATION_BYTES_MAX: Final = 4 * FRAME_BYTES_MAX  # of a configuration 3 in several frames
NAMES_MAX: Final = 20_000  # of a configuration; decoding them takes 50 ms
FRACSEC_MASK: Final = 0xFFFFFF
NAME_BYTES: Final = 16  # of a name in configurations 1 and 2
BITS: Final = 16  # of a digital word
PHASOR_STEP: Final = 1e-5  # PHUNIT counts in 10 microvolts or microamperes


class FrameType(IntEnum):
    """Bits 6 to 4 of the second byte."""

    DATA = 0
    HEADER = 1
    CFG1 = 2
    CFG2 = 3
    COMMAND = 4
    CFG3 = 5


class Command(IntEnum):
    """What a command frame asks for."""

    OFF = 1
    ON = 2
    SEND_HEADER = 3
    SEND_CFG1 = 4
    SEND_CFG2 = 5
    SEND_CFG3 = 6


class Frame(NamedTuple):
    """A frame whose size and check sum are right; `body` is what lies between head and CRC."""

    kind: FrameType
    version: int
    idcode: int
    soc: int
    fracsec: int
    body: bytes


# ---------------------------------------------------------------- frames


def encode_frame(
    kind: FrameType,
    idcode: int,
    body: bytes,
    *,
    soc: int = 0,
    fracsec: int = 0,
    version: int = VERSION_2005,
) -> bytes:
    """A whole frame; `fracsec` carries the time quality in its highest byte."""
    size = FRAME_BYTES_MIN + len(body)
    assert size <= FRAME_BYTES_MAX, "longer than any frame"
    data = HEAD.pack(SYNC, kind << 4 | version, size, idcode, soc, fracsec) + body
    return data + crc_hqx(data, 0xFFFF).to_bytes(2, "big")


def decode_frame(data: bytes) -> Frame:
    """One whole frame. Raises Garbled for a wrong sync, type, size or check sum."""
    if len(data) < FRAME_BYTES_MIN:
        raise Garbled(f"{len(data)} bytes are no frame: {data[:16].hex(' ')}")
    sync, kind_and_version, size, idcode, soc, fracsec = HEAD.unpack_from(data)
    kind = kind_and_version >> 4
    if sync != SYNC or kind > FrameType.CFG3:
        raise Garbled(f"no C37.118 frame: {data[:16].hex(' ')}")
    if size != len(data):
        raise Garbled(f"a frame of {len(data)} bytes says that it has {size}")
    if crc_hqx(data, 0xFFFF) != 0:  # over the CRC too: the remainder of an intact frame is 0
        raise Garbled(f"check sum wrong in a frame of {size} bytes: {data[:16].hex(' ')}")
    return Frame(FrameType(kind), kind_and_version & 15, idcode, soc, fracsec, data[HEAD.size : -2])


def encode_command(idcode: int, command: Command, *, soc: int = 0, fracsec: int = 0) -> bytes:
    """A command to the stream `idcode`."""
    body = command.to_bytes(2, "big")
    return encode_frame(FrameType.COMMAND, idcode, body, soc=soc, fracsec=fracsec)


def decode_command(body: bytes) -> int:
    """The number of a command; what follows it in an extended frame is not looked at."""
    if len(body) < 2:
        raise Garbled(f"a command of {len(body)} bytes")
    return int.from_bytes(body[:2], "big")


class Cutter:
    """Cuts a TCP stream into frames, however it was split or joined on the way."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def waiting(self) -> bytes:
        """The beginning of the frame that is not complete, 16 bytes at most."""
        return bytes(self._buffer[:16])

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now, not yet checked.

        Raises Garbled where no frame can begin. There is no search for the next one: 0xAA is a
        common byte, and a stream that lost its place once is not to be trusted.
        """
        buffer = self._buffer
        buffer += data
        frames, start = [], 0
        while len(buffer) - start >= 4:
            size = buffer[start + 2] << 8 | buffer[start + 3]
            if buffer[start] != SYNC or buffer[start + 1] >> 4 > FrameType.CFG3:
                raise Garbled(f"no C37.118 frame: {bytes(buffer[start : start + 16]).hex(' ')}")
            if size < FRAME_BYTES_MIN:
                raise Garbled(f"a frame says that it has {size} bytes")
            if len(buffer) - start < size:
                break
            frames.append(bytes(buffer[start : start + size]))
            start += size
        if start:
            del buffer[:start]
        if buffer and buffer[0] != SYNC:
            raise Garbled(f"no C37.118 frame: {self.waiting.hex(' ')}")
        return frames


# ---------------------------------------------------------------- configurations


@dataclass(frozen=True, slots=True)
class PhasorUnit:
    """Scaling of a phasor.

    factor    volts or amperes of one count; configurations 1 and 2 mean integers only
    turn_rad  the phasor is turned back by this angle (configuration 3)
    current   true for a current
    flags     modification flags (configuration 3)
    component phase or sequence, as the type byte of configuration 3 has it
    """

    factor: float = 1.0
    turn_rad: float = 0.0
    current: bool = False
    flags: int = 0
    component: int = 0


@dataclass(frozen=True, slots=True)
class AnalogUnit:
    """Scaling of an analog.

    factor, offset  ``value = factor * raw + offset`` in configuration 3
    kind            configurations 1 and 2: 0 point on wave, 1 rms, 2 peak
    user            configurations 1 and 2: a signed number whose meaning is the maker's
    """

    factor: float = 1.0
    offset: float = 0.0
    kind: int = 0
    user: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """What only configuration 3 says: where the PMU stands, and how it filters."""

    global_id: bytes = bytes(16)
    latitude_deg: float = float("inf")  # infinite = unspecified
    longitude_deg: float = float("inf")
    elevation_m: float = float("inf")
    service_class: str = "M"
    window_us: int = 0
    delay_us: int = 0


@dataclass(frozen=True, slots=True)
class Pmu:
    """One PMU of a stream: its formats, and the names of its signals in the order of the data.

    `digitals` are 16 names a word, lowest bit first; `masks` are normal state and valid bits of
    each word. `changes` is CFGCNT.
    """

    station: str
    idcode: int
    phasors: tuple[str, ...] = ()
    analogs: tuple[str, ...] = ()
    digitals: tuple[str, ...] = ()
    phasor_units: tuple[PhasorUnit, ...] = ()
    analog_units: tuple[AnalogUnit, ...] = ()
    masks: tuple[tuple[int, int], ...] = ()
    polar: bool = False
    float_phasors: bool = False
    float_analogs: bool = False
    float_frequency: bool = False
    nominal_hz: int = 50
    changes: int = 0
    place: Place = Place()

    def __post_init__(self) -> None:
        assert len(self.phasors) == len(self.phasor_units)
        assert len(self.analogs) == len(self.analog_units)
        assert len(self.digitals) == BITS * len(self.masks)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a stream consists of.

    kind       which configuration frame said so; the scaling of integers depends on it
    time_base  fractions in a second
    rate       frames a second; negative: seconds a frame
    """

    kind: FrameType
    idcode: int
    time_base: int
    pmus: tuple[Pmu, ...]
    rate: int

    @property
    def period_s(self) -> float:
        """Seconds from frame to frame; 1 where the device says 0."""
        return 1 / self.rate if self.rate > 0 else float(max(1, -self.rate))


class _Reader:
    """Takes numbers and texts off the front of a body; Garbled where it is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._names = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise Garbled(f"a configuration ends after {len(self._data)} bytes, too early")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def i16(self) -> int:
        return int.from_bytes(self.take(2), "big", signed=True)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def f32(self) -> float:
        number: float = struct.unpack(">f", self.take(4))[0]
        return number

    def name(self) -> str:
        """16 bytes of text, filled up with blanks or zeros."""
        return self.take(NAME_BYTES).decode("latin-1").strip(" \0")

    def long_name(self) -> str:
        """One byte of length and UTF-8 text."""
        return self.take(self.take(1)[0]).decode("utf-8", "replace").strip(" \0")

    def names(self, *counts: int, long: bool = False) -> list[tuple[str, ...]]:
        """So many names of each kind, one kind behind the other."""
        self._names += sum(counts)
        if self._names > NAMES_MAX:
            raise Garbled(f"a configuration of more than {NAMES_MAX} signals")
        one = self.long_name if long else self.name
        return [tuple(one() for _ in range(count)) for count in counts]

    def end(self) -> None:
        if self._at != len(self._data):
            raise Garbled(f"{len(self._data) - self._at} bytes too many in a configuration")


def decode_configuration(kind: FrameType, idcode: int, body: bytes) -> Configuration:
    """A configuration from the body of its frame, of all its frames put together for CFG-3.

    `body` of a CFG-3 begins behind CONT_IDX; see `Pieces`. Raises Garbled.
    """
    assert kind in (FrameType.CFG1, FrameType.CFG2, FrameType.CFG3)
    reader = _Reader(body)
    time_base = reader.u32() & FRACSEC_MASK
    count = reader.u16()
    if time_base == 0 or count == 0:
        raise Garbled(f"a configuration of {count} PMUs with a time base of {time_base}")
    one = _pmu_of_cfg3 if kind == FrameType.CFG3 else _pmu_of_cfg2
    pmus = tuple(one(reader) for _ in range(count))
    rate = reader.i16()
    reader.end()
    return Configuration(kind, idcode, time_base, pmus, rate)


def _pmu_of_cfg2(reader: _Reader) -> Pmu:
    station, idcode = reader.name(), reader.u16()
    form, phasors, analogs, words = (reader.u16() for _ in range(4))
    names = reader.names(phasors, analogs, BITS * words)
    phasor_units = tuple(_phasor_unit(reader.u32()) for _ in range(phasors))
    analog_units = tuple(_analog_unit(reader.u32()) for _ in range(analogs))
    masks = tuple((reader.u16(), reader.u16()) for _ in range(words))
    nominal, changes = reader.u16(), reader.u16()
    return _pmu(station, idcode, form, names, phasor_units, analog_units, masks, nominal, changes)


def _pmu_of_cfg3(reader: _Reader) -> Pmu:
    station, idcode, global_id = reader.long_name(), reader.u16(), reader.take(16)
    form, phasors, analogs, words = (reader.u16() for _ in range(4))
    names = reader.names(phasors, analogs, BITS * words, long=True)
    phasor_units = tuple(_phasor_scale(reader) for _ in range(phasors))
    analog_units = tuple(AnalogUnit(reader.f32(), reader.f32()) for _ in range(analogs))
    masks = tuple((reader.u16(), reader.u16()) for _ in range(words))
    latitude, longitude, elevation = reader.f32(), reader.f32(), reader.f32()
    service_class = reader.take(1).decode("latin-1")
    window, delay = reader.u32(), reader.u32()
    place = Place(global_id, latitude, longitude, elevation, service_class, window, delay)
    nominal, changes = reader.u16(), reader.u16()
    return _pmu(
        station, idcode, form, names, phasor_units, analog_units, masks, nominal, changes, place
    )


def _pmu(
    station: str,
    idcode: int,
    form: int,
    names: list[tuple[str, ...]],
    phasor_units: tuple[PhasorUnit, ...],
    analog_units: tuple[AnalogUnit, ...],
    masks: tuple[tuple[int, int], ...],
    nominal: int,
    changes: int,
    place: Place | None = None,
) -> Pmu:
    return Pmu(
        station=station,
        idcode=idcode,
        phasors=names[0],
        analogs=names[1],
        digitals=names[2],
        phasor_units=phasor_units,
        analog_units=analog_units,
        masks=masks,
        polar=bool(form & 1),
        float_phasors=bool(form & 2),
        float_analogs=bool(form & 4),
        float_frequency=bool(form & 8),
        nominal_hz=50 if nominal & 1 else 60,
        changes=changes,
        place=place or Place(),
    )


def _phasor_unit(word: int) -> PhasorUnit:
    return PhasorUnit(factor=(word & 0xFFFFFF) * PHASOR_STEP, current=word >> 24 == 1)


def _analog_unit(word: int) -> AnalogUnit:
    user = word & 0xFFFFFF
    return AnalogUnit(kind=word >> 24, user=user - (user >> 23 << 24))


def _phasor_scale(reader: _Reader) -> PhasorUnit:
    word, factor, turn_rad = reader.u32(), reader.f32(), reader.f32()
    kind = word >> 8 & 0xFF
    return PhasorUnit(factor, turn_rad, bool(kind & 8), word >> 16, kind & 7)


class Pieces:
    """Puts a configuration 3 together that was sent in several frames (CONT_IDX)."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, body: bytes) -> bytes | None:
        """The whole body with its last piece, None before. Raises Garbled."""
        if len(body) < 2:
            raise Garbled(f"a configuration 3 of {len(body)} bytes")
        number, piece = int.from_bytes(body[:2], "big"), body[2:]
        if number == 0:
            self._pieces.clear()
            return piece
        if number == 1:
            self._pieces, self._size = [], 0
        elif not self._pieces or number not in (len(self._pieces) + 1, 0xFFFF):
            raise Garbled(f"piece {number} of a configuration 3 behind {len(self._pieces)} pieces")
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > CONFIGURATION_BYTES_MAX:
            raise Garbled(f"a configuration 3 of more than {CONFIGURATION_BYTES_MAX} bytes")
        if number != 0xFFFF:
            return None
        whole, self._pieces = b"".join(self._pieces), []
        return whole


# ---------------------------------------------------------------- configurations, encoded


def encode_configuration(configuration: Configuration) -> bytes:
    """The body that `decode_configuration` takes; a CFG-3 needs CONT_IDX in front of it."""
    one = _cfg3_of_pmu if configuration.kind == FrameType.CFG3 else _cfg2_of_pmu
    pmus = b"".join(one(pmu) for pmu in configuration.pmus)
    head = struct.pack(">IH", configuration.time_base, len(configuration.pmus))
    return head + pmus + struct.pack(">h", configuration.rate)


def _form(pmu: Pmu) -> int:
    return pmu.polar | pmu.float_phasors << 1 | pmu.float_analogs << 2 | pmu.float_frequency << 3


def _counts(pmu: Pmu) -> bytes:
    return struct.pack(
        ">4H", _form(pmu), len(pmu.phasors), len(pmu.analogs), len(pmu.digitals) // BITS
    )


def _tail(pmu: Pmu) -> bytes:
    return struct.pack(">2H", pmu.nominal_hz == 50, pmu.changes)


def _name(text: str) -> bytes:
    return text.encode("latin-1", "replace")[:NAME_BYTES].ljust(NAME_BYTES)


def _long_name(text: str) -> bytes:
    data = text.encode("utf-8")[:255]
    return bytes((len(data),)) + data


def _cfg2_of_pmu(pmu: Pmu) -> bytes:
    parts = [_name(pmu.station), pmu.idcode.to_bytes(2, "big"), _counts(pmu)]
    parts += [_name(name) for name in (*pmu.phasors, *pmu.analogs, *pmu.digitals)]
    for unit in pmu.phasor_units:
        parts.append(struct.pack(">I", unit.current << 24 | round(unit.factor / PHASOR_STEP)))
    for analog in pmu.analog_units:
        parts.append(struct.pack(">I", analog.kind << 24 | analog.user & 0xFFFFFF))
    parts += [struct.pack(">2H", *mask) for mask in pmu.masks]
    return b"".join((*parts, _tail(pmu)))


def _cfg3_of_pmu(pmu: Pmu) -> bytes:
    place = pmu.place
    parts = [_long_name(pmu.station), pmu.idcode.to_bytes(2, "big"), place.global_id, _counts(pmu)]
    parts += [_long_name(name) for name in (*pmu.phasors, *pmu.analogs, *pmu.digitals)]
    for unit in pmu.phasor_units:
        kind = unit.current << 3 | unit.component
        parts.append(struct.pack(">HBxff", unit.flags, kind, unit.factor, unit.turn_rad))
    parts += [struct.pack(">2f", analog.factor, analog.offset) for analog in pmu.analog_units]
    parts += [struct.pack(">2H", *mask) for mask in pmu.masks]
    parts.append(
        struct.pack(
            ">3fcII",
            place.latitude_deg,
            place.longitude_deg,
            place.elevation_m,
            place.service_class.encode("latin-1"),
            place.window_us,
            place.delay_us,
        )
    )
    return b"".join((*parts, _tail(pmu)))
