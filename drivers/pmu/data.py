"""Data frames of IEEE C37.118.2-2011: signals by name, numbers, status, time; both ways.

A configuration fixes every byte of its data frames, so it is compiled once: a `DataLayout` takes
a frame apart with one precompiled struct, a `Selection` turns the numbers of many frames into the
values of some signals at once.

Source: IEEE Std C37.118.2-2011, section 6.2.2 with Tables 3 and 4 (time quality) and section 6.3
with Tables 5 to 7 (data frame, STAT bits).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config import status
from drivers.errors import Garbled
from drivers.pmu.frames import (
    BITS,
    FRACSEC_MASK,
    FRAME_BYTES_MAX,
    FRAME_BYTES_MIN,
    Configuration,
    FrameType,
    PhasorUnit,
    Pmu,
)

PARTS: Final = ("magnitude", "angle", "real", "imaginary")
NO_INTEGER: Final = -32768  # an integer that means "no value"
ANGLE_STEP_RAD: Final = 1e-4  # of integer polar phasors
NS_PER_S: Final = 1_000_000_000
CLOCK_OFF_NS_MAX: Final = 24 * 3600 * NS_PER_S  # a stamp that is further from now is none

# STAT bits.
PMU_ERROR: Final = 0x4000
NO_VALUES: Final = 0x8000  # test mode or filler; with PMU_ERROR a failure
NOT_IN_SYNC: Final = 0x2000
BY_ARRIVAL: Final = 0x1000
CHANGES: Final = 0x0400  # the configuration changes when this falls
MODIFIED: Final = 0x0200
UNLOCKED: Final = 0x0030  # for more than 10 s, 100 s, 1000 s
_TIME_ERROR_SHIFT: Final = 6
_TIME_ERROR_100_US: Final = 4  # code of Table 7: known to be below 100 microseconds

# Time quality in FRACSEC: 0 locked, then 1 ns to 10 s in decades, 15 no reliable clock.
_QUALITY_100_US: Final = 6
_QUALITY_NO_CLOCK: Final = 15


class _Form(NamedTuple):
    """Where one PMU's numbers lie in the unpacked tuple."""

    stat: int
    phasors: int
    frequency: int
    analogs: int
    words: int


class DataLayout:
    """The data frames of one configuration."""

    def __init__(self, configuration: Configuration) -> None:
        """Raises Garbled where the data would fit no frame."""
        self.configuration = configuration
        self.forms: list[_Form] = []
        code, at = [">6xII"], 2
        stat_at, self.stat_bytes = FRAME_BYTES_MIN - 2, list[int]()
        for pmu in configuration.pmus:
            phasors, analogs, words = len(pmu.phasors), len(pmu.analogs), len(pmu.masks)
            first = at + 1
            frequency = first + 2 * phasors
            form = _Form(at, first, frequency, frequency + 2, frequency + 2 + analogs)
            self.forms.append(form)
            at = form.words + words
            codes = f"H{_phasor_code(pmu) * phasors}{'ff' if pmu.float_frequency else 'hh'}"
            codes += f"{analogs}{'f' if pmu.float_analogs else 'h'}{words}H"
            code.append(codes)
            self.stat_bytes.append(stat_at)
            stat_at += struct.calcsize(">" + codes)
        self._struct = struct.Struct("".join(code) + "2x")
        self.numbers = at
        self.size = self._struct.size
        self.unpack = self._struct.unpack  # 2 + N numbers: SOC, FRACSEC, then PMU by PMU
        if self.size > FRAME_BYTES_MAX:
            raise Garbled(f"a configuration whose data would take {self.size} bytes a frame")

    def announcing(self, frame: bytes) -> int:
        """A bit for each PMU that announces in its STAT that its configuration changes."""
        bits = 0
        for place, at in enumerate(self.stat_bytes):
            if frame[at] & CHANGES >> 8:
                bits |= 1 << place
        return bits

    def pack(self, numbers: Sequence[float]) -> bytes:
        """The body of a data frame from what `unpack` gives; integers where the format has them."""
        return self._struct.pack(*numbers)[FRAME_BYTES_MIN - 2 : -2]


def _phasor_code(pmu: Pmu) -> str:
    if pmu.float_phasors:
        return "ff"
    return "Hh" if pmu.polar else "hh"


# ---------------------------------------------------------------- signals by name


class Signal(NamedTuple):
    """One signal of a stream: PMU, kind, number among its kind, part of a phasor."""

    pmu: int
    kind: str
    number: int = 0
    part: str = ""


def _signals(pmu: Pmu) -> Iterator[tuple[str, str, int, str]]:
    """Name, kind, number and part of all signals of a PMU; nameless ones can't be meant."""
    for name, kind in (("FREQ", "freq"), ("DFREQ", "dfreq"), ("STAT", "stat")):
        yield name, kind, 0, ""
    for number, name in enumerate(pmu.phasors):
        for part in PARTS:
            if name:
                yield f"{name}.{part}", "phasor", number, part
    for number, name in enumerate(pmu.analogs):
        if name:
            yield f"ANALOG:{name}", "analog", number, ""
    for number, name in enumerate(pmu.digitals):
        if name:
            yield f"DIGITAL:{name}", "bit", number, ""
    for number in range(len(pmu.masks)):
        yield f"WORD:{number + 1}", "word", number, ""


def find_signals(
    configuration: Configuration, wanted: Iterable[str]
) -> tuple[dict[str, Signal], dict[str, str]]:
    """The signals behind some names, and for the other names why there is none.

    A name is the signal's alone, or ``STATION/`` or ``IDCODE/`` and the signal's. It has to mean
    one signal only.
    """
    hits: dict[str, list[Signal]] = {name: [] for name in wanted}
    for place, pmu in enumerate(configuration.pmus):
        prefixes = ("", *dict.fromkeys((f"{pmu.station}/", f"{pmu.idcode}/")))
        for name, kind, number, part in _signals(pmu):
            for prefix in prefixes:
                found = hits.get(prefix + name)
                if found is not None:
                    found.append(Signal(place, kind, number, part))
    signals = {name: found[0] for name, found in hits.items() if len(found) == 1}
    missing = {name: "the stream has no such signal" for name, found in hits.items() if not found}
    several = {
        name: f"the stream has {len(found)} such signals; put the station in front"
        for name, found in hits.items()
        if len(found) > 1
    }
    return signals, missing | several


@dataclass(slots=True)
class _Phasors:
    """Phasors of one format of which one part is wanted: rows of the selection, (n,) columns."""

    rows: NDArray[np.intp]
    first: NDArray[np.intp]
    factor: NDArray[np.float64]
    turn_rad: NDArray[np.float64]
    polar: bool
    floats: bool
    part: str

    def values(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """(F, M) numbers -> (F, n) values; NaN where the device sends its mark for "none"."""
        one, two = numbers[:, self.first], numbers[:, self.first + 1]
        if not self.floats:
            none = two == NO_INTEGER
            if not self.polar:
                none |= one == NO_INTEGER
            one, two = np.where(none, np.nan, one), np.where(none, np.nan, two)
        if not self.polar and not self.turn_rad.any() and self.part in ("real", "imaginary"):
            return (one if self.part == "real" else two) * self.factor
        if self.polar:
            magnitude, angle = one, two if self.floats else two * ANGLE_STEP_RAD
        else:
            magnitude, angle = np.hypot(one, two), np.arctan2(two, one)
        magnitude, angle = magnitude * self.factor, angle - self.turn_rad
        if self.part == "magnitude":
            return magnitude
        if self.part == "angle":
            degrees = np.degrees(angle)
            return np.where(np.abs(degrees) <= 180, degrees, 180 - (180 - degrees) % 360)
        return magnitude * (np.cos(angle) if self.part == "real" else np.sin(angle))


class Sample(NamedTuple):
    """One data frame: (K,) values, (K,) status codes or None where all are good, UTC or None."""

    values: NDArray[np.float64]
    codes: NDArray[np.uint32] | None
    utc_ns: int | None


class Selection:
    """Some signals of a stream, in a fixed order."""

    def __init__(self, layout: DataLayout, signals: Sequence[Signal]) -> None:
        self.layout = layout
        count = len(signals)
        self._columns = np.zeros(count, dtype=np.intp)
        self._factor, self._offset = np.ones(count), np.zeros(count)
        self._integer = np.zeros(count, dtype=np.bool_)  # NO_INTEGER is no value
        self._stats = np.array([form.stat for form in layout.forms], dtype=np.intp)
        # STAT itself is good whatever it says: the last column of the codes.
        good = len(layout.forms)
        self._pmu = np.array([good if s.kind == "stat" else s.pmu for s in signals], dtype=np.intp)
        bits, phasors = [], dict[tuple[bool, bool, str], list[int]]()
        for row, signal in enumerate(signals):
            pmu = layout.configuration.pmus[signal.pmu]
            if signal.kind == "phasor":
                phasors.setdefault((pmu.polar, pmu.float_phasors, signal.part), []).append(row)
            else:
                self._linear(row, signal)
            if signal.kind == "bit":
                bits.append((row, signal.number % BITS))
        self._bits = np.array([row for row, _ in bits], dtype=np.intp)
        self._shift = np.array([bit for _, bit in bits], dtype=np.int64)
        self._phasors = [self._group(rows, signals, *key) for key, rows in phasors.items()]

    def _linear(self, row: int, signal: Signal) -> None:
        """Column and scaling of everything but phasors."""
        form = self.layout.forms[signal.pmu]
        pmu = self.layout.configuration.pmus[signal.pmu]
        if signal.kind in ("freq", "dfreq"):
            rate = signal.kind == "dfreq"
            self._columns[row] = form.frequency + rate
            if not pmu.float_frequency:  # millihertz beside the nominal frequency, 0.01 Hz/s
                self._integer[row] = True
                self._factor[row] = 0.01 if rate else 0.001
                self._offset[row] = 0.0 if rate else pmu.nominal_hz
        elif signal.kind == "analog":
            self._columns[row] = form.analogs + signal.number
            self._integer[row] = not pmu.float_analogs
            if self.layout.configuration.kind == FrameType.CFG3:
                unit = pmu.analog_units[signal.number]
                self._factor[row], self._offset[row] = unit.factor, unit.offset
        elif signal.kind == "stat":
            self._columns[row] = form.stat
        else:
            word = signal.number // BITS if signal.kind == "bit" else signal.number
            self._columns[row] = form.words + word

    def _group(
        self, rows: list[int], signals: Sequence[Signal], polar: bool, floats: bool, part: str
    ) -> _Phasors:
        units = [_unit(self.layout.configuration, signals[row]) for row in rows]
        first = [self.layout.forms[signals[r].pmu].phasors + 2 * signals[r].number for r in rows]
        return _Phasors(
            rows=np.array(rows, dtype=np.intp),
            first=np.array(first, dtype=np.intp),
            factor=np.array([unit.factor for unit in units]),
            turn_rad=np.array([unit.turn_rad for unit in units]),
            polar=polar,
            floats=floats,
            part=part,
        )

    def samples(self, frames: Sequence[bytes], now_utc_ns: int) -> list[Sample]:
        """Whole data frames of this layout, in order -> one sample each. Never raises.

        A stamp that is more than a day away from `now_utc_ns` says nothing but that one of the
        clocks is wrong: it is left out, and the values are uncertain.
        """
        numbers = np.array([self.layout.unpack(frame) for frame in frames], dtype=np.float64)
        with np.errstate(all="ignore"):  # a float may be a signalling NaN or overflow the scaling
            raw = numbers[:, self._columns]
            values = raw * self._factor + self._offset
            values[self._integer & (raw == NO_INTEGER)] = np.nan
            if len(self._bits):
                words = raw[:, self._bits].astype(np.int64)
                values[:, self._bits] = words >> self._shift & 1
            for group in self._phasors:
                values[:, group.rows] = group.values(numbers)
        time_base = self.layout.configuration.time_base
        times = [
            near(time_of(int(soc), int(frac), time_base), now_utc_ns)
            for soc, frac in numbers[:, :2]
        ]
        suspect = np.array([unsure for _, unsure in times], dtype=np.bool_)
        codes = _codes(numbers[:, self._stats].astype(np.int64), suspect)[:, self._pmu]
        return [
            Sample(values[i], codes[i] if codes[i].any() else None, utc_ns)
            for i, (utc_ns, _) in enumerate(times)
        ]


def _unit(configuration: Configuration, signal: Signal) -> PhasorUnit:
    pmu = configuration.pmus[signal.pmu]
    if configuration.kind != FrameType.CFG3 and pmu.float_phasors:
        return PhasorUnit()  # configurations 1 and 2 scale integers only
    return pmu.phasor_units[signal.number]


# ---------------------------------------------------------------- status and time


def time_of(soc: int, fracsec: int, time_base: int) -> tuple[int | None, bool]:
    """Nanoseconds since 1970 in UTC, and whether the clock may be off by more than 100 us.

    None where the clock is not reliable, or the fraction is a second or more. The second count
    leaves leap seconds out, as UNIX time does.
    """
    quality, fraction = fracsec >> 24 & 15, fracsec & FRACSEC_MASK
    if quality == _QUALITY_NO_CLOCK or fraction >= time_base:
        return None, True
    return soc * NS_PER_S + fraction * NS_PER_S // time_base, quality > _QUALITY_100_US


def near(time: tuple[int | None, bool], now_utc_ns: int) -> tuple[int | None, bool]:
    """What `time_of` gives, without a stamp that is too far from now."""
    utc_ns, unsure = time
    if utc_ns is None or abs(utc_ns - now_utc_ns) > CLOCK_OFF_NS_MAX:
        return None, True
    return utc_ns, unsure


def code_of(stat: int) -> int:
    """The status code that a STAT word means for the values of its PMU."""
    if stat & PMU_ERROR:
        return status.BAD_DEVICE_FAILURE
    if stat & NO_VALUES:
        return status.BAD_SENSOR_FAILURE
    if stat & (NOT_IN_SYNC | BY_ARRIVAL | MODIFIED | UNLOCKED):
        return status.UNCERTAIN_SENSOR_NOT_ACCURATE
    if stat >> _TIME_ERROR_SHIFT & 7 > _TIME_ERROR_100_US:
        return status.UNCERTAIN_SENSOR_NOT_ACCURATE
    return status.GOOD


_CODES: Final = np.array([code_of(stat) for stat in range(1 << 16)], dtype=np.uint32)


def _codes(stats: NDArray[np.int64], suspect: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """(F, P) STAT words, (F,) uncertain clocks -> (F, P + 1) status codes; the last are good."""
    codes = np.zeros((stats.shape[0], stats.shape[1] + 1), dtype=np.uint32)
    codes[:, :-1] = _CODES[stats]
    late = np.equal(codes, status.GOOD) & suspect[:, np.newaxis]
    late[:, -1] = False
    codes[late] = status.UNCERTAIN_SENSOR_NOT_ACCURATE
    return codes


# ---------------------------------------------------------------- encoding, for simulators


@dataclass(slots=True)
class Measured:
    """What one PMU measures: phasors in volts and amperes, frequency in Hz, its slope in Hz/s."""

    phasors: Sequence[complex] = ()
    frequency_hz: float = 50.0
    slope_hz_s: float = 0.0
    analogs: Sequence[float] = ()
    words: Sequence[int] = ()
    stat: int = 0


def encode_data(layout: DataLayout, measured: Sequence[Measured]) -> bytes:
    """The body of a data frame. Integers are rounded; raises struct.error where they don't fit."""
    numbers: list[float] = [0, 0]
    configuration = layout.configuration
    for place, (pmu, now) in enumerate(zip(configuration.pmus, measured, strict=True)):
        numbers.append(now.stat)
        for number, phasor in enumerate(now.phasors):
            unit = _unit(configuration, Signal(place, "phasor", number))
            numbers += _phasor_numbers(pmu, phasor, unit)
        if pmu.float_frequency:
            numbers += (now.frequency_hz, now.slope_hz_s)
        else:
            off_hz = now.frequency_hz - pmu.nominal_hz
            numbers += (round(off_hz * 1000), round(now.slope_hz_s * 100))
        for analog, declared in zip(now.analogs, pmu.analog_units, strict=True):
            scaled = configuration.kind == FrameType.CFG3
            raw = (analog - declared.offset) / declared.factor if scaled else analog
            numbers.append(raw if pmu.float_analogs else round(raw))
        numbers += now.words
    return layout.pack(numbers)


def _phasor_numbers(pmu: Pmu, phasor: complex, unit: PhasorUnit) -> tuple[float, float]:
    if pmu.polar:
        magnitude = abs(phasor) / unit.factor
        angle = math.atan2(phasor.imag, phasor.real) + unit.turn_rad
        if pmu.float_phasors:
            return magnitude, angle
        return round(magnitude), round(angle / ANGLE_STEP_RAD)
    turned = phasor * complex(math.cos(unit.turn_rad), math.sin(unit.turn_rad)) / unit.factor
    if pmu.float_phasors:
        return turned.real, turned.imag
    return round(turned.real), round(turned.imag)
