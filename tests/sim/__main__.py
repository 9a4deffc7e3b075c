"""``python -m tests.sim``: run seeds of the simulation and show what they find."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tests.sim.plant import prepared
from tests.sim.world import Outcome, run

SHOWN_LINES: int = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds from there on (1)")
    parser.add_argument("--hours", type=float, default=0.1, help="virtual hours with faults (0.1)")
    parser.add_argument("--kinds", default="", help="of faults, with commas (the seed draws them)")
    parser.add_argument("--quiet", action="store_true", help="one line a run; no trace")
    options = parser.parse_args(arguments)
    kinds = tuple(kind.strip() for kind in options.kinds.split(",") if kind.strip())
    prepared()
    failed = []
    for seed in range(options.seed, options.seed + options.runs):
        began_s = time.monotonic()
        show = None if options.quiet else print
        found = run(seed, options.hours * 3600, kinds=kinds, show=show)
        _report(found, time.monotonic() - began_s, shown=not options.quiet)
        if found.violations:
            failed.append(seed)
    if failed:
        print(f"failed: {', '.join(map(str, failed))}")
    return 1 if failed else 0


def _report(found: Outcome, seconds: float, *, shown: bool) -> None:
    print(
        f"seed {found.seed}: {found.virtual_s:.0f} virtual s in {seconds:.1f} s, "
        f"{found.records} records, {found.lives} lives, "
        f"{found.seen['slots']} s of slots, {found.seen['thinned']} thinned, "
        f"{found.seen['acknowledged']} acknowledged, {found.steps} steps, hash {found.digest}"
    )
    if found.violations and not shown:
        print("\n".join(found.lines[-SHOWN_LINES:]))
    for violation in found.violations:
        print(f"  VIOLATION {violation}")


if __name__ == "__main__":
    sys.exit(main())
