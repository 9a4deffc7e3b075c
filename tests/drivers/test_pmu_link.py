"""Findings about PMU streams, and the link on whatever comes."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.findings import SiteError
from drivers.errors import Garbled, NotConnected
from drivers.pmu import link as pmu_link
from drivers.pmu.data import CHANGES
from drivers.pmu.driver import PROTOCOL, check, plan
from drivers.pmu.frames import FrameType, encode_frame
from drivers.pmu.link import PmuLink
from gateway.core.clock import ManualClock
from tests.drivers.instruments import instrument
from tests.drivers.pmu_case import IDCODE, SIGNALS, Wire, configuration, frames_of, pmu, stream

# ---------------------------------------------------------------- findings


@pytest.mark.parametrize(
    ("names", "tags", "key", "rule"),
    [
        (("FREQ",), {"Connection": {"IP": "10.0.0.1"}}, "Connection.Unit", "unit-invalid"),
        (
            ("FREQ",),
            {"Connection": {"IP": "10.0.0.1", "Unit": 0}},
            "Connection.Unit",
            "unit-invalid",
        ),
        (("FREQ",), {"Connection": {"IP": "a", "Unit": 65535}}, "Connection.Unit", "unit-invalid"),
        (("FREQ",), {"Connection": {"Unit": 7}}, "Connection.IP", "connection-missing"),
        (("VA",), {}, "C0.IOPoint", "address-missing"),
        (("VA.phase",), {}, "C0.IOPoint", "address-missing"),
        (("WORD:0",), {}, "C0.IOPoint", "address-missing"),
        (("ANALOG:",), {}, "C0.IOPoint", "address-missing"),
        (("FREQ", "FREQ"), {}, "C0", "address-shared"),
    ],
)
def test_findings(names: tuple[str, ...], tags: dict[str, Any], key: str, rule: str) -> None:
    made = stream(4712, *names, **tags)
    (finding,) = check(made)
    assert (finding.rule, finding.key.endswith(key)) == (rule, True)
    if finding.severity == "error":
        with pytest.raises(SiteError):
            plan(made)


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"ReadWrite": "RW"}, "protocol-read-only"),
        ({"DataType": "HEX"}, "datatype-unknown"),
        ({"Scalar": 0.0}, "scalar-zero"),
        ({"IOPoint": 7}, "address-missing"),
        ({"IOPoint": None}, "address-missing"),
    ],
)
def test_findings_of_a_channel(keys: dict[str, Any], rule: str) -> None:
    made = stream(4712, "FREQ")
    channels = {"C0": {"IOPoint": "FREQ"} | keys}
    made = instrument(channels, Communication="C37118", Connection={"IP": "a", "Unit": "0x1e36"})
    (finding,) = check(made)
    assert (finding.rule, finding.key.split(".")[-1]) == (rule, next(iter(keys)))


def test_a_listening_instrument_needs_no_address() -> None:
    assert check(stream(4713, "A/B/VA.angle", Transport="UDP", Connection={"Unit": 7})) == []


def test_blocks_are_pushed_one_a_scan_class() -> None:
    channels = {
        "A": {"IOPoint": "FREQ", "Class": "Fast"},
        "B": {"IOPoint": "DFREQ", "Class": "Slow"},
        "C": {"IOPoint": "STAT", "Class": "Fast"},
    }
    made = instrument(channels, Communication="C37118", Connection={"IP": "a", "Unit": 7})
    blocks = plan(made)
    assert [(b.scan_class, b.index.tolist(), b.pushed) for b in blocks] == [
        ("Fast", [1, 3], True),
        ("Slow", [2], True),
    ]
    assert PROTOCOL.pushes


# ---------------------------------------------------------------- a hostile stream


GOOD = [
    *frames_of(configuration(), 0, CHANGES, 0),
    *frames_of(configuration(pmu(), pmu("B", 2)), 0, CHANGES),
    *frames_of(configuration(pmu(floats=False), kind=FrameType.CFG3), 0),
]
BODIES = st.one_of(st.binary(max_size=80), st.sampled_from([frame[14:-2] for frame in GOOD]))
FRAMES = st.one_of(
    st.sampled_from(GOOD),
    st.builds(
        encode_frame,
        st.sampled_from(FrameType),
        st.sampled_from((IDCODE, IDCODE, IDCODE, 1)),
        BODIES,
    ),
    st.binary(max_size=40),
    st.builds(lambda frame, end: frame[:end], st.sampled_from(GOOD), st.integers(0, 60)),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(FRAMES, max_size=25),
    st.booleans(),
    st.booleans(),
    st.sampled_from((FrameType.CFG2, FrameType.CFG3)),
)
def test_whatever_comes_the_link_ends_by_a_driver_error_or_gives_samples(
    frames: list[bytes], datagrams: bool, listen_only: bool, kind: FrameType
) -> None:
    async def run() -> None:
        link = PmuLink(
            IDCODE, SIGNALS, kind, 5.0, listen_only=listen_only, clock=ManualClock(), tap=None
        )
        link.connection_made(Wire())  # type: ignore[arg-type]
        for frame in [GOOD[0] if kind == FrameType.CFG2 else GOOD[-2], *frames]:
            if datagrams:
                link.datagram_received(frame, ("10.0.0.1", 1))
            else:
                link.data_received(frame)
        while (taken := link.take()) is not None:
            signals, samples = taken
            assert all(len(s.values) == len(signals.rows) for s in samples)
        assert link.ended is None or (isinstance(link.ended, Garbled) and not datagrams)
        link.end(NotConnected("over"))

    asyncio.run(run())


def test_what_waits_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmu_link, "PENDING_BYTES_MAX", 1000)

    async def run() -> None:
        link = PmuLink(
            IDCODE, ("FREQ",), FrameType.CFG2, 5.0, listen_only=True, clock=ManualClock(), tap=None
        )
        link.connection_made(Wire())  # type: ignore[arg-type]
        told, good, *_ = frames_of(configuration(), 0)
        other = frames_of(configuration(pmu(), pmu("B", 2)), 0)[1]
        link.data_received(told)
        for _ in range(100):
            link.data_received(good)
        assert sum(len(frame) for _, frame in link._pending) <= 1000
        for _ in range(100):
            link.data_received(other)
        assert sum(len(frame) for frame in link._held) <= 1000
        link.end(NotConnected("over"))

    asyncio.run(run())


def test_a_configuration_told_again_changes_nothing() -> None:
    async def run() -> None:
        link = PmuLink(
            IDCODE, ("FREQ",), FrameType.CFG2, 5.0, listen_only=True, clock=ManualClock(), tap=None
        )
        link.connection_made(Wire())  # type: ignore[arg-type]
        told, good = frames_of(configuration(), 0)
        link.data_received(told)
        first = link.signals
        link.data_received(good + told + good)
        assert link.signals is first
        taken = link.take()
        assert taken is not None
        assert len(taken[1]) == 2
        counted = dataclasses.replace(pmu(), changes=1)
        link.data_received(frames_of(configuration(counted))[0])
        assert link.signals is not first
        link.end(NotConnected("over"))

    asyncio.run(run())
