"""The C37.118 codec against the standard's example, against itself, and against noise."""

from __future__ import annotations

import dataclasses
import math
import struct
from binascii import crc_hqx
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import status
from drivers.errors import DriverError, Garbled
from drivers.pmu.data import (
    CHANGES,
    PARTS,
    DataLayout,
    Measured,
    Sample,
    Selection,
    code_of,
    encode_data,
    find_signals,
    time_of,
)
from drivers.pmu.frames import (
    CONFIGURATION_BYTES_MAX,
    FRAME_BYTES_MAX,
    AnalogUnit,
    Command,
    Configuration,
    Cutter,
    FrameType,
    PhasorUnit,
    Pieces,
    Place,
    Pmu,
    decode_command,
    decode_configuration,
    decode_frame,
    encode_command,
    encode_configuration,
    encode_frame,
)
from drivers.sim.pmu_server import pieces
from tests.drivers.pmu_case import (
    IDCODE,
    STANDARD_CFG2,
    STANDARD_COMMAND,
    STANDARD_DATA,
    STANDARD_HEADER,
    configuration,
    measured,
    pmu,
)

CFG3 = FrameType.CFG3


def sample(frame: bytes, made: Configuration, *names: str) -> Sample:
    signals, missing = find_signals(made, names)
    assert missing == {}
    soc = int.from_bytes(frame[6:10], "big")
    selection = Selection(DataLayout(made), [signals[name] for name in names])
    return selection.samples([frame], soc * 10**9)[0]


def data_frame(made: Configuration, *now: Measured, soc: int = 0, fracsec: int = 0) -> bytes:
    body = encode_data(DataLayout(made), now)
    return encode_frame(FrameType.DATA, made.idcode, body, soc=soc, fracsec=fracsec)


# ---------------------------------------------------------------- the standard's example


def test_the_configuration_of_the_standard() -> None:
    frame = decode_frame(STANDARD_CFG2)
    assert (frame.kind, frame.idcode, frame.soc) == (FrameType.CFG2, 7734, 1149577200)
    made = decode_configuration(frame.kind, frame.idcode, frame.body)
    assert (made.time_base, made.rate, made.period_s) == (1_000_000, 30, 1 / 30)
    (one,) = made.pmus
    assert (one.station, one.idcode, one.nominal_hz, one.changes) == ("Station A", 7734, 60, 22)
    assert one.phasors == ("VA", "VB", "VC", "I1")
    assert one.analogs == ("ANALOG1", "ANALOG2", "ANALOG3")
    assert one.digitals[0] == "BREAKER 1 STATUS"
    assert one.digitals[15] == "BREAKER G STATUS"
    assert (one.polar, one.float_phasors, one.float_analogs, one.float_frequency) == (
        False,
        False,
        True,
        False,
    )
    assert one.phasor_units[0] == PhasorUnit(915527 * 1e-5)
    assert one.phasor_units[3] == PhasorUnit(45776 * 1e-5, current=True)
    assert [unit.kind for unit in one.analog_units] == [0, 1, 2]
    assert one.masks == ((0, 0xFFFF),)
    assert encode_configuration(made) == frame.body


def test_the_data_of_the_standard() -> None:
    frame = decode_frame(STANDARD_CFG2)
    made = decode_configuration(frame.kind, frame.idcode, frame.body)
    names = [f"{phasor}.{part}" for phasor, part in product(("VA", "VB", "VC", "I1"), PARTS)]
    names += ["FREQ", "DFREQ", "ANALOG:ANALOG1", "ANALOG:ANALOG2", "ANALOG:ANALOG3", "STAT"]
    names += [f"DIGITAL:{name}" for name in made.pmus[0].digitals] + ["WORD:1"]
    got = sample(STANDARD_DATA, made, *names)
    values = dict(zip(names, got.values.tolist(), strict=True))
    assert values["VA.magnitude"] == pytest.approx(133_987, abs=1)  # 134.0 kV at 0 degrees
    assert values["VA.angle"] == 0.0
    assert values["VB.magnitude"] == pytest.approx(134_002, abs=5)
    assert values["VB.angle"] == pytest.approx(-120.0, abs=0.01)
    assert values["VC.angle"] == pytest.approx(120.0, abs=0.01)
    assert values["VC.real"] == pytest.approx(-66998.26586)
    assert values["VC.imaginary"] == pytest.approx(116043.04725)
    assert values["I1.magnitude"] == pytest.approx(499.9, abs=0.1)
    assert values["FREQ"] == 62.5
    assert values["DFREQ"] == 0.0
    assert [values[f"ANALOG:ANALOG{n}"] for n in (1, 2, 3)] == [100.0, 1000.0, 10000.0]
    bits = "0011110000010010"  # 0x3c12
    assert [values[f"DIGITAL:{name}"] for name in made.pmus[0].digitals] == [
        float(bit) for bit in reversed(bits)
    ]
    assert values["WORD:1"] == 0x3C12
    assert values["STAT"] == 0.0
    assert got.codes is None
    assert got.utc_ns == 1149580800_016817000


def test_header_and_command_of_the_standard() -> None:
    assert decode_frame(STANDARD_HEADER).body == b"Hello I'm Header Frame."
    frame = decode_frame(STANDARD_COMMAND)
    assert (frame.kind, decode_command(frame.body)) == (FrameType.COMMAND, Command.ON)
    again = encode_command(7734, Command.ON, soc=frame.soc, fracsec=frame.fracsec)
    assert again == STANDARD_COMMAND


def test_the_check_sum_is_that_of_the_standard() -> None:
    assert crc_hqx(b"123456789", 0xFFFF) == 0x29B1  # CRC-CCITT's known answer


# ---------------------------------------------------------------- values in every format


@pytest.mark.parametrize("kind", [FrameType.CFG2, CFG3])
@pytest.mark.parametrize("polar", [False, True])
@pytest.mark.parametrize("floats", [False, True])
def test_every_format_carries_the_same_numbers(kind: FrameType, polar: bool, floats: bool) -> None:
    made = configuration(pmu(polar=polar, floats=floats), kind=kind)
    names = [*(f"VA.{part}" for part in PARTS), "IA.real", "IA.imaginary", "FREQ", "DFREQ"]
    names += ["ANALOG:Power", "DIGITAL:Breaker", "WORD:1"]
    got = sample(data_frame(made, measured()), made, *names)
    angle = math.degrees(math.atan2(4, 3))
    assert got.values[:6] == pytest.approx([500, angle, 300, 400, 0, -2], abs=0.02)
    assert got.values[6:].tolist() == [50.25, 0.5, 7.0, 1.0, 5.0]


def test_configuration_3_turns_phasors_back_and_scales_floats() -> None:
    made = configuration(pmu(turn_rad=math.pi / 2), kind=CFG3)
    body = encode_data(DataLayout(made), [measured()])
    one, two = struct.unpack_from(">ff", body, 2)
    assert (one, two) == pytest.approx((-800, 600))  # ahead by 90 degrees, in half volts
    got = sample(data_frame(made, measured()), made, "VA.real", "VA.imaginary", "VA.angle")
    assert got.values == pytest.approx([300, 400, 53.1301], abs=1e-3)


def test_floats_of_configuration_2_are_not_scaled() -> None:
    made = configuration(pmu())
    body = encode_data(DataLayout(made), [measured()])
    assert struct.unpack_from(">ff", body, 2) == (300.0, 400.0)


@pytest.mark.parametrize("radians", [math.pi, -math.pi, 3.1416, -3.1416, 6.0, -6.0])
def test_angles_lie_between_minus_180_and_180(radians: float) -> None:
    made = configuration(pmu(polar=True, turn_rad=3.0), kind=CFG3)
    layout = DataLayout(made)
    body = layout.pack([0, 0, 0, 1.0, radians, 0.0, 0.0, 50.0, 0.0, 0.0, 0])
    got = sample(encode_frame(FrameType.DATA, IDCODE, body), made, "VA.angle", "VA.real")
    assert -180 <= got.values[0] <= 180
    assert math.cos(math.radians(got.values[0])) == pytest.approx(math.cos(radians - 3), abs=1e-5)
    assert got.values[1] == pytest.approx(0.5 * math.cos(radians - 3), abs=1e-5)


@pytest.mark.parametrize("polar", [False, True])
def test_what_the_device_marks_as_missing_is_nan(polar: bool) -> None:
    for floats, none in ((False, -32768), (True, math.nan)):
        made = configuration(pmu(polar=polar, floats=floats))
        first = 0x8000 if polar and not floats else none
        numbers = [0, 0, 0, first, none, 1, 1, none, none, none, 1]
        frame = encode_frame(FrameType.DATA, IDCODE, DataLayout(made).pack(numbers))
        names = [f"VA.{part}" for part in PARTS] + ["FREQ", "DFREQ", "ANALOG:Power", "WORD:1"]
        got = sample(frame, made, *names)
        assert np.isnan(got.values[:7]).all()
        assert got.values[7] == 1.0


def test_one_missing_part_leaves_nothing_of_a_rectangular_phasor() -> None:
    made = configuration(pmu(floats=False))
    for one, two in ((-32768, 5), (5, -32768)):
        body = DataLayout(made).pack([0, 0, 0, one, two, 1, 1, 0, 0, 0, 0])
        frame = encode_frame(FrameType.DATA, IDCODE, body)
        got = sample(frame, made, "VA.magnitude", "VA.angle", "IA.real")
        assert np.isnan(got.values).tolist() == [True, True, False]


def test_a_magnitude_of_0x8000_is_a_number() -> None:
    made = configuration(pmu(polar=True, floats=False))
    numbers = [0, 0, 0, 0x8000, 0, 1, 1, 0, 0, 0, 0]
    frame = encode_frame(FrameType.DATA, IDCODE, DataLayout(made).pack(numbers))
    assert sample(frame, made, "VA.magnitude").values.tolist() == [0x8000 * 0.5]


def test_many_frames_at_once_are_as_many_samples_in_order() -> None:
    made = configuration(pmu(), pmu("B", 2, polar=True, floats=False))
    names = ("Station A/FREQ", "B/FREQ", "B/VA.magnitude", "2/STAT")
    signals, _ = find_signals(made, names)
    selection = Selection(DataLayout(made), [signals[name] for name in names])
    frames = [
        data_frame(made, measured(50 + n / 8), measured(50.5, stat=n), soc=n, fracsec=250_000)
        for n in range(20)
    ]
    samples = selection.samples(frames, 0)
    assert [s.values[0] for s in samples] == [50 + n / 8 for n in range(20)]
    assert [s.values[3] for s in samples] == list(range(20))
    assert [s.utc_ns for s in samples] == [n * 10**9 + 250_000_000 for n in range(20)]
    alone = [selection.samples([frame], 0)[0] for frame in frames]
    np.testing.assert_array_equal([s.values for s in samples], [s.values for s in alone])


# ---------------------------------------------------------------- names


def test_names_are_found_with_and_without_their_station() -> None:
    made = configuration(pmu("North/1", 11), pmu("South", 12, names=("VB", "IA", "P.x", "Open:1")))
    wanted = ["North/1/VA.angle", "11/VA.angle", "VA.angle", "VB.real", "ANALOG:P.x"]
    wanted += ["DIGITAL:Open:1", "12/FREQ"]
    signals, missing = find_signals(made, wanted)
    assert missing == {}
    assert signals["North/1/VA.angle"] == signals["11/VA.angle"] == signals["VA.angle"]
    assert signals["12/FREQ"].pmu == 1
    signals, missing = find_signals(
        made, ["FREQ", "IA.real", "VC.real", "VA", "DIGITAL:", "X/FREQ"]
    )
    assert signals == {}
    assert "2 such signals" in missing["FREQ"]
    assert "no such signal" in missing["VC.real"]
    assert set(missing) == {"FREQ", "IA.real", "VC.real", "VA", "DIGITAL:", "X/FREQ"}


def test_a_station_that_is_called_like_its_idcode_is_one_station() -> None:
    made = configuration(pmu("11", 11), pmu("South", 12))
    signals, missing = find_signals(made, ["11/FREQ"])
    assert (signals["11/FREQ"].pmu, missing) == (0, {})


# ---------------------------------------------------------------- status and time


@pytest.mark.parametrize(
    ("stat", "code"),
    [
        (0x0000, status.GOOD),
        (0x0800, status.GOOD),  # a trigger
        (0x080F, status.GOOD),
        (0x0400, status.GOOD),  # the configuration will change
        (0x0100, status.GOOD),  # time error below 100 us
        (0x0140, status.UNCERTAIN_SENSOR_NOT_ACCURATE),  # below 1 ms
        (0x01C0, status.UNCERTAIN_SENSOR_NOT_ACCURATE),  # unknown
        (0x0010, status.UNCERTAIN_SENSOR_NOT_ACCURATE),  # unlocked for more than 10 s
        (0x0200, status.UNCERTAIN_SENSOR_NOT_ACCURATE),  # modified
        (0x1000, status.UNCERTAIN_SENSOR_NOT_ACCURATE),  # sorted by arrival
        (0x2000, status.UNCERTAIN_SENSOR_NOT_ACCURATE),  # not in sync
        (0x4000, status.BAD_DEVICE_FAILURE),
        (0x8000, status.BAD_SENSOR_FAILURE),
        (0xC000, status.BAD_DEVICE_FAILURE),
        (0xFFFF, status.BAD_DEVICE_FAILURE),
    ],
)
def test_stat_becomes_a_status_of_its_pmu_only(stat: int, code: int) -> None:
    assert code_of(stat) == code
    made = configuration(pmu(), pmu("B", 2))
    frame = data_frame(made, measured(stat=stat), measured())
    got = sample(frame, made, "Station A/FREQ", "B/FREQ", "Station A/VA.angle", "Station A/STAT")
    codes = [0] * 4 if got.codes is None else got.codes.tolist()
    assert codes == [code, status.GOOD, code, status.GOOD]


def test_the_time_quality_of_the_frame_counts_for_all_pmus() -> None:
    assert time_of(10, 500, 1000) == (10_500_000_000, False)
    assert time_of(10, 6 << 24 | 500, 1000) == (10_500_000_000, False)  # below 100 us
    assert time_of(10, 7 << 24 | 500, 1000) == (10_500_000_000, True)
    assert time_of(10, 15 << 24 | 500, 1000) == (None, True)
    assert time_of(10, 1000, 1000) == (None, True)  # the fraction is no fraction
    # Leap second pending, occurred, deleted: no part of the quality.
    assert time_of(10, 0x70 << 24 | 500, 1000) == (10_500_000_000, False)
    assert time_of(0xFFFFFFFF, 0, 1) == (4294967295_000000000, False)
    made = configuration(pmu(), pmu("B", 2))
    frame = data_frame(made, measured(), measured(stat=0x8000), fracsec=15 << 24)
    got = sample(frame, made, "Station A/FREQ", "B/FREQ")
    assert got.utc_ns is None
    assert got.codes is not None
    assert got.codes.tolist() == [status.UNCERTAIN_SENSOR_NOT_ACCURATE, status.BAD_SENSOR_FAILURE]


def test_announced_changes_are_told_pmu_by_pmu() -> None:
    made = configuration(pmu(), pmu("B", 2))
    layout = DataLayout(made)
    for first, second in product((0, CHANGES), repeat=2):
        frame = data_frame(made, measured(stat=first), measured(stat=second | 0x3BFF))
        assert layout.announcing(frame) == bool(first) + 2 * bool(second)


# ---------------------------------------------------------------- round trips


NAMES = st.text(st.characters(codec="latin-1", exclude_characters="\0 "), max_size=16)
FACTORS = st.integers(1, 0xFFFFFF).map(lambda steps: steps * 1e-5)
SINGLES = st.floats(width=32, allow_nan=False)


@st.composite
def pmus(draw: st.DrawFn, kind: FrameType) -> Pmu:
    phasors = draw(st.lists(NAMES, max_size=4))
    analogs = draw(st.lists(NAMES, max_size=3))
    masks = draw(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), max_size=2))
    flags = [draw(st.booleans()) for _ in range(4)]
    if kind == CFG3:
        component = st.integers(0, 7)
        phasor = st.builds(
            PhasorUnit, SINGLES, SINGLES, st.booleans(), st.integers(0, 65535), component
        )
        analog = st.builds(AnalogUnit, SINGLES, SINGLES)
        place = st.builds(Place, st.binary(min_size=16, max_size=16), SINGLES, SINGLES, SINGLES)
    else:
        phasor = st.builds(PhasorUnit, FACTORS, current=st.booleans())
        analog = st.builds(
            AnalogUnit, kind=st.integers(0, 255), user=st.integers(-(2**23), 2**23 - 1)
        )
        place = st.just(Place())
    return Pmu(
        draw(NAMES),
        draw(st.integers(0, 65535)),
        tuple(phasors),
        tuple(analogs),
        tuple(draw(NAMES) for _ in range(16 * len(masks))),
        tuple(draw(phasor) for _ in phasors),
        tuple(draw(analog) for _ in analogs),
        tuple(masks),
        *flags,
        draw(st.sampled_from((50, 60))),
        draw(st.integers(0, 65535)),
        draw(place),
    )


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    kind = draw(st.sampled_from((FrameType.CFG1, FrameType.CFG2, CFG3)))
    members = draw(st.lists(pmus(kind), min_size=1, max_size=3))
    base = draw(st.integers(1, 0xFFFFFF))
    return Configuration(kind, 7, base, tuple(members), draw(st.integers(-32768, 32767)))


@settings(max_examples=60, deadline=None)
@given(configurations())
def test_a_configuration_survives_the_wire(made: Configuration) -> None:
    body = encode_configuration(made)
    assert decode_configuration(made.kind, made.idcode, body) == made
    assert made.period_s > 0


def test_a_configuration_3_in_pieces_is_put_together() -> None:
    long = pmu(names=("V" * 200, "I" * 200, "P" * 200, "D" * 200))
    made = configuration(*[dataclasses.replace(long, idcode=n) for n in range(150)], kind=CFG3)
    bodies = pieces(made)
    assert len(bodies) == 3
    collector = Pieces()
    assert [collector.add(body) for body in bodies[:2]] == [None, None]
    whole = collector.add(bodies[2])
    assert whole is not None
    assert decode_configuration(CFG3, IDCODE, whole) == made
    assert collector.add(bodies[0]) is None  # and again
    with pytest.raises(Garbled, match="piece 1001"):
        collector.add((1001).to_bytes(2, "big"))


def test_pieces_without_end_are_garbled() -> None:
    collector = Pieces()
    for number in range(1, 5):
        assert collector.add(number.to_bytes(2, "big") + bytes(60_000)) is None
    with pytest.raises(Garbled, match=str(CONFIGURATION_BYTES_MAX)):
        collector.add((5).to_bytes(2, "big") + bytes(60_000))


# ---------------------------------------------------------------- what is no frame


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: b"", "0 bytes are no frame"),
        (lambda f: f[:10], "10 bytes are no frame"),
        (lambda f: b"\xab" + f[1:], "no C37.118 frame"),
        (lambda f: f[:1] + b"\x61" + f[2:], "no C37.118 frame"),  # type 6
        (lambda f: f[:-1], "says that it has"),
        (lambda f: f + b"\0", "says that it has"),
        (lambda f: f[:20] + b"\x01" + f[21:], "check sum"),
        (lambda f: f[:-1] + bytes((f[-1] ^ 1,)), "check sum"),
    ],
)
def test_a_broken_frame_is_garbled(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Garbled, match=reason):
        decode_frame(change(STANDARD_DATA))


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 6))
def test_a_stream_is_cut_into_the_same_frames_however_it_comes(cuts: list[int], n: int) -> None:
    frames = [STANDARD_DATA, STANDARD_HEADER, STANDARD_COMMAND] * n
    stream = b"".join(frames)
    cutter, got, at = Cutter(), list[bytes](), 0
    for size in [*cuts, len(stream)]:
        got += cutter.feed(stream[at : at + size])
        at += size
    assert got == frames
    assert cutter.waiting == b""


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_noise_in_the_stream_is_garbled_or_waits_for_more(chunks: list[bytes]) -> None:
    cutter = Cutter()
    try:
        for chunk in chunks:
            for frame in cutter.feed(chunk):
                assert len(frame) <= FRAME_BYTES_MAX
    except Garbled:
        return


HOSTILE_BODY = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda base, count, rest: struct.pack(">IH", base, count) + rest,
        st.integers(0, 0xFFFFFFFF),
        st.one_of(st.integers(0, 3), st.just(65535)),
        st.binary(max_size=300),
    ),
    st.builds(  # a real one with a few bytes changed
        lambda body, at, new: body[:at] + new + body[at + len(new) :],
        st.sampled_from(
            [
                decode_frame(STANDARD_CFG2).body,
                encode_configuration(configuration(kind=CFG3)),
                encode_configuration(configuration(pmu(), pmu("B", 2))),
            ]
        ),
        st.integers(0, 420),
        st.binary(min_size=1, max_size=4),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from((FrameType.CFG1, FrameType.CFG2, CFG3)), HOSTILE_BODY, st.binary(max_size=9))
def test_a_hostile_configuration_ends_in_a_driver_error(
    kind: FrameType, body: bytes, noise: bytes
) -> None:
    try:
        made = decode_configuration(kind, 1, body)
        layout = DataLayout(made)
    except DriverError:
        return
    wanted = ["FREQ", *(f"{name}.angle" for one in made.pmus for name in one.phasors)]
    signals, _ = find_signals(made, wanted)
    selection = Selection(layout, list(signals.values()))
    filler = (noise or b"\x80") * layout.size
    (got,) = selection.samples([filler[: layout.size]], 0)
    assert len(got.values) == len(signals)


def test_lengths_that_promise_too_much_are_garbled_at_once() -> None:
    head = struct.pack(">IH", 1_000_000, 1) + b"Station A       " + struct.pack(">H", 1)
    for counts in ((0, 20_000, 0, 0), (0, 0, 20_000, 0), (0, 0, 0, 1250)):
        body = head + struct.pack(">4H", *counts) + bytes(1000)
        with pytest.raises(Garbled, match="too early"):
            decode_configuration(FrameType.CFG2, 1, body)
    # Names of one byte fit many phasors into a configuration 3, and no frame holds their data.
    many = dataclasses.replace(pmu(), phasors=("",) * 9000, phasor_units=(PhasorUnit(),) * 9000)
    with pytest.raises(Garbled, match="72032 bytes"):
        DataLayout(configuration(many, kind=CFG3))


@given(st.binary(max_size=4))
def test_a_command_is_a_number_or_garbled(body: bytes) -> None:
    try:
        assert 0 <= decode_command(body) <= 65535
    except Garbled:
        assert len(body) < 2
