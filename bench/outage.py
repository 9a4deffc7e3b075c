"""Outages: real processes, a real broker, and readings that are numbered by the device.

A Modbus device numbers its answers; ten registers are polled every 500 ms. Round after round one
thing fails, comes back, and everything must have arrived: no number of the journal missing or
doubled, no reading of the device missing without a declared gap, order kept at every point.

    python -m bench.outage --rounds 200 --json    half an hour
    python -m bench.outage --quick                 one round of the commonest faults, ours alone
    python -m bench.outage --peers 3               ThingsBoard Gateway and Node-RED beside it

mosquitto keeps nothing over a restart here. The clock of the gateway is stepped by libfaketime
(Debian's package libfaketime); where that is missing, the round fails and says so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Final

from bench import _outage_faults as faults
from bench._outage_plant import OurPlant, PeerPlant, faketime_library
from bench._outage_readings import Found
from bench._peers_gateways import Gateway, NodeRed, ThingsBoard
from bench._peers_run import RunFailed
from bench._peers_setup import NotInstalled
from bench._report import Report, say

HEAL_S: Final = 90.0
TAIL_READINGS: Final = 20  # read, and on their way when the device was asked last


async def rounds_of_ours(report: Report, rounds: int, names: list[str], seed: int) -> None:
    """One gateway through all rounds; every round begins where the last one ended."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    heal_s: dict[str, list[float]] = defaultdict(list)
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gatepost-outage-") as folder:
        plant = OurPlant(Path(folder))
        try:
            await plant.start(clock_environment(plant))
            for number in range(rounds):
                name = names[number % len(names)]
                await asyncio.sleep(chance.uniform(0.2, 1.2))
                await faults.OURS[name](plant, chance)
                began = time.monotonic()
                try:
                    async with asyncio.timeout(HEAL_S):
                        await plant.settled()
                except TimeoutError:
                    failed.append(f"round {number}, {name}")
                    say(f"round {number}: {name}: not healed in {HEAL_S:g} s")
                    continue
                counts[name] += 1
                heal_s[name].append(time.monotonic() - began)
                at = await plant.status()
                where = f"epoch {at['epoch']}, number {at['seq']}" if at else "no field"
                say(f"round {number}: {name}: whole after {heal_s[name][-1]:.1f} s, {where}")
            answered = plant.answered()
            shown = await plant.status()
            report.figure("scan_overruns", shown["scan"]["overruns"] if shown else -1)
            await asyncio.sleep(1.5)
            await plant.settled()
            tell_ours(report, plant, answered)
        finally:
            await plant.stop()
    for name in names:
        report.figure(f"{name}_rounds", counts[name])
        if heal_s[name]:
            report.figure(f"{name}_heal_median_s", median(heal_s[name]))
            report.figure(f"{name}_heal_max_s", max(heal_s[name]))
    report.check("rounds_healed", sum(counts.values()), ">=", rounds)
    for text in failed:
        say(f"failed: {text}")


def clock_environment(plant: OurPlant) -> dict[str, str]:
    """What lets the gateway's processes read their wall clock's offset from a file."""
    library = faketime_library()
    if library is None:
        return {}
    plant.step_clock(0)
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(plant.clock_file),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_CACHE_DURATION": "1",
    }


def tell_ours(report: Report, plant: OurPlant, answered: int) -> None:
    """The historian's own count, and the device's."""
    audit, found = plant.audit()
    for before, after, readings in found[0].holes:
        say(f"{readings} readings between (epoch, number) {before} and {after}, and no gap")
    report.figure("rows", audit.rows)
    report.figure("epochs", len(audit.epochs))
    report.figure("declared_gaps", sum(len(epoch.gaps) for epoch in audit.epochs))
    report.figure("readings_answered", answered)
    report.figure("readings_arrived", min(each.arrived for each in found))
    report.figure("readings_in_declared_gaps", max(each.declared for each in found))
    report.figure("readings_answered_while_it_stopped", max(each.at_stop for each in found))
    report.check("numbers_missing", audit.missing, "<=", 0)
    report.check("numbers_doubled", audit.duplicates, "<=", 0)
    report.check("readings_missing_undeclared", sum(e.undeclared for e in found), "<=", 0)
    report.check("readings_doubled", sum(e.doubled for e in found), "<=", 0)
    report.check("readings_out_of_order", sum(e.disordered for e in found), "<=", 0)
    least = min(each.arrived + each.declared + each.at_stop for each in found)
    report.check("readings_answered_and_unknown", answered - least, "<=", TAIL_READINGS)


async def rounds_of_peer(
    kind: type[Gateway],
    fault: Callable[[PeerPlant, random.Random], Awaitable[None]],
    rounds: int,
    seed: int,
) -> Found:
    """A peer through some rounds of one fault."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="gatepost-outage-") as folder:
        plant = PeerPlant(kind, Path(folder))
        try:
            await plant.start()
            for _ in range(rounds):
                await asyncio.sleep(chance.uniform(0.2, 1.2))
                await fault(plant, chance)
                async with asyncio.timeout(HEAL_S):
                    await plant.settled()
            return await plant.found()
        finally:
            await plant.stop()


def peers(report: Report, rounds: int, seed: int) -> None:
    """Both peers, fault by fault; one that can't be had is named, not counted as beaten."""
    for kind in (ThingsBoard, NodeRed):
        for name, fault in faults.PEERS.items():
            try:
                found = asyncio.run(rounds_of_peer(kind, fault, rounds, seed))
            except (NotInstalled, RunFailed, TimeoutError) as error:
                say(f"{kind.name}, {name}: {error or 'did not heal'}")
                report.figure(f"{kind.name}_{name}_unavailable", str(error) or "did not heal")
                continue
            missing = found.undeclared
            say(f"{kind.name}, {name}, {rounds} rounds: {missing} missing, {found.doubled} doubled")
            report.figure(f"{kind.name}_{name}_readings_arrived", found.arrived)
            report.figure(f"{kind.name}_{name}_readings_missing", missing)
            report.figure(f"{kind.name}_{name}_readings_doubled", found.doubled)


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    parser.add_argument("--rounds", type=int, default=50, help="of ours, all faults in turn")
    parser.add_argument("--peers", type=int, default=0, help="rounds of each fault with each peer")
    parser.add_argument("--seed", type=int, default=1, help="of the chance in the rounds")
    given = parser.parse_args()
    report = Report("outage")
    names = list(faults.QUICK if given.quick else faults.OURS)
    rounds = len(names) if given.quick else given.rounds
    report.figure("seed", given.seed)
    asyncio.run(rounds_of_ours(report, rounds, names, given.seed))
    if given.peers and not given.quick:
        peers(report, given.peers, given.seed)
    return report.print(given.json)


if __name__ == "__main__":
    sys.exit(main())
