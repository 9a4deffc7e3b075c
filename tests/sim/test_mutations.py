"""The simulation finds what it is there for: faults in the gateway itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sim.mutations import MUTATIONS, Mutation, Trial
from tests.sim.world import run

# The first run of a machine may compile the safety kernel.
pytestmark = pytest.mark.timeout(180)

SETTLE_S = 30.0
# A change of the gateway may draw another course for a seed; these are tried where its own misses.
OTHER_SEEDS = range(1, 9)
OTHER_RUN_S = 120.0
OTHER_SETTLE_S = 100.0


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_promise_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    trial = MUTATIONS[mutation]
    assert any(trial.says in text for text in _violations(trial))


def _violations(trial: Trial) -> Iterator[str]:
    yield from run(trial.seed, trial.run_s, kinds=trial.kinds, settle_s=SETTLE_S).violations
    for seed in OTHER_SEEDS:
        yield from run(seed, OTHER_RUN_S, kinds=trial.kinds, settle_s=OTHER_SETTLE_S).violations
