"""Configurations, frames and signals that the C37.118 tests share."""

from __future__ import annotations

from typing import Any

from config.site import Instrument
from drivers.pmu.data import DataLayout, Measured, encode_data
from drivers.pmu.frames import (
    AnalogUnit,
    Configuration,
    FrameType,
    PhasorUnit,
    Pmu,
    encode_configuration,
    encode_frame,
)
from tests.drivers.instruments import instrument

IDCODE = 7734
SIGNALS = ("FREQ", "VA.magnitude", "Station A/ANALOG:Power", "DIGITAL:Breaker")

# The example of IEEE Std C37.118.2-2011, Annex D: one PMU, four phasors, three analogs, one word.
STANDARD_CFG2 = bytes.fromhex(
    "aa3101c61e36448527f056071098000f4240000153746174696f6e204120202020202020"
    "1e36000400040003000156412020202020202020202020202020564220202020202020202020202020205643"
    "2020202020202020202020202020493120202020202020202020202020"
    "20414e414c4f4731202020202020202020414e414c4f4732202020202020202020414e414c4f4733202020202020"
    "202020"
    + "".join(f"BREAKER {sign} STATUS".encode().hex() for sign in "123456789ABCDEFG")
    + "000df847000df847000df8470100b2d00000000101000001020000010000ffff00000016001ed5d1"
)
STANDARD_DATA = bytes.fromhex(
    "aa0100341e3644853600000041b10000392b0000e36ace7ce36a31830444000009c4000042c80000447a0000"
    "461c40003c12d43f"
)
STANDARD_HEADER = bytes.fromhex(
    "aa1100271e36448560300f0bbfd048656c6c6f2049276d20486561646572204672616d652e17cc"
)
STANDARD_COMMAND = bytes.fromhex("aa4100121e36448560300f0bbfd00002ce00")


def pmu(
    station: str = "Station A",
    idcode: int = IDCODE,
    *,
    polar: bool = False,
    floats: bool = True,
    names: tuple[str, str, str, str] = ("VA", "IA", "Power", "Breaker"),
    turn_rad: float = 0.0,
) -> Pmu:
    """A voltage, a current, an analog and a word whose first bit has a name."""
    return Pmu(
        station=station,
        idcode=idcode,
        phasors=names[:2],
        analogs=names[2:3],
        digitals=(names[3], *[""] * 15),
        phasor_units=(PhasorUnit(0.5, turn_rad), PhasorUnit(0.25, turn_rad, current=True)),
        analog_units=(AnalogUnit(2.0, 1.0),),
        masks=((0, 1),),
        polar=polar,
        float_phasors=floats,
        float_analogs=floats,
        float_frequency=floats,
        nominal_hz=50,
    )


def configuration(
    *pmus: Pmu, kind: FrameType = FrameType.CFG2, rate: int = 100, idcode: int = IDCODE
) -> Configuration:
    """A stream of some PMUs; of one where none is given."""
    return Configuration(kind, idcode, 1_000_000, pmus or (pmu(),), rate)


def measured(frequency_hz: float = 50.25, stat: int = 0) -> Measured:
    """Numbers that every format holds exactly, phasors apart."""
    return Measured(
        phasors=[complex(300, 400), complex(0, -2)],
        frequency_hz=frequency_hz,
        slope_hz_s=0.5,
        analogs=[7.0],
        words=[0b101],
        stat=stat,
    )


def stream(port: int, *names: str, **tags: Any) -> Instrument:
    """An instrument with a channel a name, in the order of the names."""
    channels = {f"C{n}": {"IOPoint": name} for n, name in enumerate(names or SIGNALS)}
    place = {"IP": "127.0.0.1", "Unit": IDCODE}
    keys: dict[str, Any] = {"Communication": "C37118", "PortNum": port, "Connection": place}
    return instrument(channels, **keys | tags)


class Wire:
    """A transport whose peer reads nothing."""

    def __init__(self) -> None:
        self.waiting = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.waiting += len(data)

    sendto = write

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str) -> None:
        """No socket."""

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Waits for the peer to read."""

    def abort(self) -> None:
        self.aborted = True


def frames_of(made: Configuration, *stats: int) -> list[bytes]:
    kind = made.kind
    body = encode_configuration(made)
    told = encode_frame(kind, IDCODE, body if kind != FrameType.CFG3 else bytes(2) + body)
    layout = DataLayout(made)
    data = [
        encode_frame(
            FrameType.DATA, IDCODE, encode_data(layout, [measured(stat=s) for _ in made.pmus])
        )
        for s in stats
    ]
    return [told, *data]
