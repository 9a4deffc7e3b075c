"""A thousand power cuts: everything opens, and what was promised as durable is there.

The cuts are always the same ones; `python -m bench.power` makes others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.power_cuts import cut
from tests.crash.power_lives import LIVES

SEED = 1
CUTS_MIN = 1_000


@pytest.mark.parametrize("name", LIVES)
def test_a_power_cut_takes_nothing_that_was_promised(tmp_path: Path, name: str) -> None:
    make, cuts = LIVES[name]
    tally = cut(make(), tmp_path, cuts=cuts, seed=SEED)
    assert tally.cuts == cuts
    # Every way was gone, and the cuts were where it hurts: between a write and its flush.
    assert len(tally.ways) == 7
    assert tally.moments["after a write"] >= cuts // 10
    assert tally.moments["after a sync"] >= cuts // 50


def test_there_are_a_thousand_of_them() -> None:
    assert sum(cuts for _, cuts in LIVES.values()) >= CUTS_MIN
