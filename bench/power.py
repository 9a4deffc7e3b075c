"""Power cuts by the thousand: every file that promises to survive one, on a disk that loses power.

The files are written by the gateway's own code on a simulated disk (tests/crash/power_disk.py):
what was not flushed is dropped, torn at sectors or written in another order. After each cut the
code that the gateway starts with opens what is left, and everything that was promised as durable
must be there. A cut that breaks a promise is reported with its seed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from bench._report import Report, say
from tests.crash.power_cuts import Broken, cut
from tests.crash.power_lives import LIVES

CUTS = 20_000
QUICK_CUTS = 1_000


def main() -> int:
    """Cuts the power again and again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="end within 50 seconds")
    parser.add_argument("--cuts", type=int, help=f"how many; {CUTS} where it is not given")
    parser.add_argument("--seed", type=int, help="of the chance in them; a new one each time")
    given = parser.parse_args()
    cuts = given.cuts or (QUICK_CUTS if given.quick else CUTS)
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    report = Report("power")
    report.figure("seed", seed)
    total = sum(share for _, share in LIVES.values())
    done = broken = operations = 0
    started = time.perf_counter()
    for name, (make, share) in LIVES.items():
        wanted = -(-cuts * share // total)
        say(f"{name}: {wanted} cuts")
        with tempfile.TemporaryDirectory(prefix="gatepost-bench-") as folder:
            try:
                tally = cut(make(), Path(folder), cuts=wanted, seed=seed)
            except Broken as error:
                say(f"BROKEN {error}")
                broken += 1
                continue
        report.figure(f"{name.replace(' ', '_')}_cuts", tally.cuts)
        done += tally.cuts
        operations += tally.operations
    report.figure("operations_cut_between", operations)
    report.figure("cuts_per_s", done / (time.perf_counter() - started))
    report.check("cuts", done, ">=", min(cuts, 1_000))
    report.check("broken_promises", broken, "<=", 0)
    return report.print(given.json)


if __name__ == "__main__":
    sys.exit(main())
