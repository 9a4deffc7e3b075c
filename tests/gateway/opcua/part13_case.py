"""The examples of OPC 10000-13, Annex A: what is stored, and what each aggregate gives for it.

Numbers of the Foundation's AggregateExamples.csv (edition 1.05.07, to which the annex points);
those of MinimumActualTime, MaximumActualTime, DurationInStateZero and DurationGood are of edition
1.04.
Each table runs from 12:00:00 to 12:01:40. A result is ``value:code`` with the letters G = Good,
U = UncertainDataSubNormal, R = Uncertain, B = Bad, N = BadNoData and the bits C = Calculated,
I = Interpolated, P = Partial, M = MultipleValues; ``@s`` in front is its time in seconds after
12:00:00 where that is not the interval's begin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.opcua.history.series import HISTORY, Configuration

NOON_NS: Final = 1_790_078_400_000_000_000  # a noon in 2026
S: Final = 1_000_000_000
END_S: Final = 100
GOOD, UNCERTAIN, BAD = 0, 0x40000000, 0x80000000

_UNEVEN: Final = (2, 25, 28, 39, 42, 48, 52, 72, 77, 83, 86, 90)
_CODES: Final = [BAD if at == 42 else UNCERTAIN if at == 77 else GOOD for at in _UNEVEN]


def rows(times_s: object, values: object, status: object) -> NDArray[np.void]:
    """(n,) HISTORY rows at seconds after noon."""
    made = np.zeros(len(np.asarray(times_s)), dtype=HISTORY)
    made["utc_ns"] = NOON_NS + (np.asarray(times_s, dtype=np.float64) * S).astype(np.int64)
    made["value"], made["status"] = values, status
    return made


@dataclass(frozen=True)
class Historian:
    rows: NDArray[np.void]
    configuration: Configuration


_H2: Final = rows(_UNEVEN, (10, 20, 25, 30, 0, 40, 50, 60, 70, 70, 80, 90), _CODES)
HISTORIANS: Final = {
    1: Historian(
        rows(
            range(10, 100, 10),
            range(10, 100, 10),
            [GOOD] * 3 + [BAD] + [GOOD] * 2 + [UNCERTAIN] + [GOOD] * 2,
        ),
        Configuration(treat_uncertain_as_bad=False),
    ),
    2: Historian(_H2, Configuration(sloped_extrapolation=True)),
    3: Historian(_H2, Configuration(percent_bad=50, percent_good=50, stepped=True)),
    4: Historian(
        rows(_UNEVEN, (1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1), _CODES), Configuration(stepped=True)
    ),
    5: Historian(
        rows(_UNEVEN, (10, 20, 10, 30, 0, 30, 50, 30, 70, 70, 80, 70), _CODES),
        Configuration(treat_uncertain_as_bad=False),
    ),
}

# (aggregate, historian, interval in s) -> results
TABLES: Final[dict[tuple[str, int, int], str]] = {
    ("Interpolative", 1, 5): """N N 10:G 15:GI 20:G 25:GI 30:G 35:UI 40:UI 45:UI 50:G 55:GI 60:G
        65:UI 70:R 75:UI 80:G 85:GI 90:G 90:UI""",
    ("Interpolative", 2, 5): """N 11.304:GI 13.478:GI 15.652:GI 17.826:GI 20:G 25.909:GI 28.182:GI
        31.111:UI 36.667:UI 45:GI 51.5:GI 54:GI 56.5:GI 59:GI 62.727:UI 67.273:UI 76.667:GI 90:G
        102.5:UI""",
    ("Interpolative", 3, 5): """N 10:GI 10:GI 10:GI 10:GI 20:G 25:GI 25:GI 30:GI 30:UI 40:GI 50:GI
        50:GI 50:GI 50:GI 60:GI 60:UI 70:GI 90:G 90:UI""",
    ("Interpolative", 5, 5): """N 11.3043:GI 13.4783:GI 15.6522:GI 17.8261:GI 20:G 13.6364:GI
        22.7273:GI 30:UI 30:UI 40:GI 47:GI 42:GI 37:GI 32:GI 54:UI 70:UI 76.6667:GI 70:G 70:UI""",
    ("Average", 1, 5): """N N 10:GC N 20:GC N 30:GC N N N 50:GC N 60:GC N N N 80:GC N 90:GC N""",
    ("Average", 2, 5): """10:GC N N N N 22.5:GC N 30:GC N 40:GC 50:GC N N N 60:GC N 70:GC 80:GC
        90:GC N""",
    ("Average", 3, 5): """10:GC N N N N 22.5:GC N 30:GC N 40:GC 50:GC N N N 60:GC N 70:GC 80:GC
        90:GC N""",
    ("Average", 5, 5): """10:GC N N N N 15:GC N 30:GC N 30:GC 50:GC N N N 30:GC N 70:GC 80:GC
        70:GC N""",
    ("TimeAverage", 1, 5): """N N 12.5:GC 17.5:GC 22.5:GC 27.5:GC 32.5:UC 37.5:UC 42.5:UC 47.5:UC
        52.5:GC 57.5:GC 62.5:UC 67.5:UC 72.5:UC 77.5:UC 82.5:GC 87.5:GC 90:UCP N""",
    ("TimeAverage", 2, 5): """10.652:UCP 12.391:GC 14.565:GC 16.739:GC 18.913:GC 23.682:GC
        27.045:GC 29.384:UC 33.889:UC 40:UC 49.45:GC 52.75:GC 55.25:GC 57.75:GC 60.618:UC 65:UC
        70.515:UC 83.667:GC 96.25:UCP N""",
    ("TimeAverage", 3, 5): """10.652:UCP 12.391:GC 14.565:GC 16.739:GC 18.913:GC 23.682:GC
        27.045:GC 29.384:UC 33.889:UC 40:UC 49.45:GC 52.75:GC 55.25:GC 57.75:GC 60.618:UC 65:UC
        70.515:UC 83.667:GC 90:UCP N""",
    ("TimeAverage", 5, 5): """10.6522:UCP 12.3913:GC 14.5652:GC 16.7391:GC 18.913:GC 13.7273:GC
        18.1818:GC 27.0909:UC 30:UC 32:UC 47.1:GC 44.5:GC 39.5:GC 34.5:GC 37.6:UC 66.8:UC
        71.3333:UC 75.6667:GC 70:UCP N""",
    ("Minimum", 1, 16): "10:GCP 20:GC N 50:GC N 80:GP N",
    ("Minimum", 2, 16): "10:GCP 20:GC 30:UC 40:G 60:UC 70:GCP N",
    ("Minimum", 3, 16): "10:GCP 20:GC 30:UC 40:G 60:UC 70:GCP N",
    ("Minimum", 5, 16): "10:GCP 10:GC 30:UC 30:G 30:GC 70:GCMP N",
    ("Maximum", 1, 16): "10:GCP 30:GC N 60:GC N 90:GCP N",
    ("Maximum", 2, 16): "10:GCP 25:GC 30:UC 50:GC 60:UC 90:GCP N",
    ("Maximum", 3, 16): "10:GCP 25:GC 30:UC 50:GC 60:UC 90:GCP N",
    ("Maximum", 5, 16): "10:GCP 20:GC 30:UC 50:GC 30:GC 80:GCP N",
    ("MinimumActualTime", 1, 16): "@10=10:GP @20=20:G N @50=50:G N @80=80:GP N",
    ("MinimumActualTime", 2, 16): "@2=10:GP @25=20:G @39=30:U @48=40:G @72=60:U @83=70:GP N",
    ("MinimumActualTime", 3, 16): "@2=10:GP @25=20:G @39=30:U @48=40:G @72=60:U @83=70:GP N",
    ("MaximumActualTime", 1, 16): "@10=10:GP @30=30:G N @60=60:G N @90=90:GP N",
    ("MaximumActualTime", 2, 16): "@2=10:GP @28=25:G @39=30:U @52=50:G @72=60:U @90=90:GP N",
    ("MaximumActualTime", 3, 16): "@2=10:GP @28=25:G @39=30:U @52=50:G @72=60:U @90=90:GP N",
    ("Count", 1, 16): "1:GCP 2:GC B 2:GC 0:UC 2:GCP N",
    ("Count", 2, 16): "1:GCP 2:GC 1:UC 2:GC 1:UC 3:GCP N",
    ("Count", 3, 16): "1:GCP 2:GC 1:GC 2:GC 1:GC 3:GCP N",
    ("Count", 4, 16): "1:GCP 2:GC 1:UC 2:GC 1:UC 3:GCP N",
    ("Count", 5, 16): "1:GCP 2:GC 1:UC 2:GC 1:UC 3:GCP N",
    ("Start", 1, 16): "@10=10:GP @20=20:G @40=B @50=50:G @70=70:R @80=80:GP N",
    ("Start", 2, 16): "@2=10:GP @25=20:G @39=30:G @48=40:G @72=60:G @83=70:GP N",
    ("Start", 3, 16): "@2=10:GP @25=20:G @39=30:G @48=40:G @72=60:G @83=70:GP N",
    ("Start", 5, 16): "@2=10:GP @25=20:G @39=30:G @48=30:G @72=30:G @83=70:GP N",
    ("End", 1, 16): "@10=10:GP @30=30:G @40=B @60=60:G @70=70:R @90=90:GP N",
    ("End", 2, 16): "@2=10:GP @28=25:G @42=B @52=50:G @77=70:R @90=90:GP N",
    ("End", 3, 16): "@2=10:GP @28=25:G @42=B @52=50:G @77=70:R @90=90:GP N",
    ("End", 5, 16): "@2=10:GP @28=10:G @42=B @52=50:G @77=70:R @90=70:GP N",
    # The annex has 10001 and 7001 in the last but one: there the last value lasts for one ms.
    ("DurationGood", 1, 16): "6000:GCP 16000:GC 0:GC 14000:GC 0:GC 10000:GCP N",
    ("DurationInStateZero", 4, 16): "0:UCP 3000:GC 0:UC 12000:GC 13000:UC 4000:UCP N",
    ("DurationGood", 2, 16): "14000:GCP 16000:GC 10000:GC 16000:GC 13000:GC 7000:GCP N",
    ("DurationGood", 3, 16): "14000:GCP 16000:GC 10000:GC 16000:GC 13000:GC 7000:GCP N",
}
# Here the annex has Good, and 5.4.3.11 says that an uncertain value above the greatest good one
# makes the result uncertain: 70 is above 30. The text is the safer of the two.
TEXT_BEFORE_TABLE: Final = {("Maximum", 5, 16, 4): "30:UC"}

_CODE: Final = {
    "G": GOOD,
    "U": 0x40A40000,
    "R": UNCERTAIN,
    "B": BAD,
    "N": 0x809B0000,
    "C": 0x401,
    "I": 0x402,
    "P": 0x404,
    "M": 0x410,
}


@dataclass(frozen=True)
class Expected:
    time_ns: int
    value: float | None
    status: int


def expected(aggregate: str, historian: int, interval_s: int) -> list[Expected]:
    """The results of a table."""
    found = []
    for at, text in enumerate(TABLES[aggregate, historian, interval_s].split()):
        cell = TEXT_BEFORE_TABLE.get((aggregate, historian, interval_s, at), text)
        made = Expected(NOON_NS + at * interval_s * S, None, 0)
        if cell.startswith("@"):
            time, _, cell = cell[1:].partition("=")
            made = replace(made, time_ns=NOON_NS + int(time) * S)
        value, _, letters = cell.rpartition(":")
        status = 0
        for letter in letters:
            status |= _CODE[letter]
        found.append(replace(made, value=float(value) if value else None, status=status))
    return found
