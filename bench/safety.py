"""How long one scan of 10,000 rules takes, beside the reference and beside a JsonLogic library.

Every rule has two inputs, hysteresis, a delay and a latch; one in ten is a 2oo3 vote. All three
ways run in one process, one after the other, on the same values. The library gets the plain
comparison only: it has no quality, hysteresis, delay or latch.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from json_logic import jsonLogic
from numpy.typing import NDArray

from bench._report import Report, arguments, say
from config.link import LinkFile
from config.model import Channel, ControlRule, EquipmentTags, MethodStep, SystemConfig
from config.points import POINT, PointDef, rule_tag
from config.site import Instrument, Personality, Site
from gateway import kernel_cache
from safety import reference
from safety.compile import compile_site
from safety.engine import Engine

RULES = 10_000
POINTS = 20_000
OUTPUTS = 100
PERIOD_NS = 100_000_000


def rule_text(rule: int) -> str:
    """The infix text of one rule."""
    a, b, c = (f"P.p{(2 * rule + at) % POINTS}" for at in range(3))
    if rule % 10 == 0:
        return f"vote(2, {a} >= 900, {b} >= 900, {c} >= 900) for 2s"
    return f"({a} >= 900 hysteresis 5 and {b} <= 905) for 2s"


def make_site(rules: int) -> Site:
    """A site of `rules` trips over all points, each driving one of the outputs."""
    channels = {f"p{at}": Channel(Type="Analog") for at in range(POINTS)}
    outputs = {f"o{at}": Channel(Type="Analog", ReadWrite="RW") for at in range(OUTPUTS)}
    points = {
        name: PointDef(at + 1, f"P.{name}", "P", name, writable=channel.ReadWrite == "RW",
                       safe_value=0.0 if name in outputs else math.nan)
        for at, (name, channel) in enumerate({**channels, **outputs}.items())
    }  # fmt: skip
    controls = {
        f"C{at}": ControlRule(When=rule_text(at), Method=f"Off{at % OUTPUTS}")
        for at in range(rules)
    }
    methods = {
        f"Off{at}": [
            MethodStep(Topic="Relay/Request/P", Payload={"Channels": {f"o{at}": 0.0}})  # type: ignore[arg-type]
        ]
        for at in range(OUTPUTS)
    }
    own = [
        PointDef(len(points) + 1 + at, rule_tag("control", name), "Controls", name, "discrete",
                 "rule")
        for at, name in enumerate(controls)
    ]  # fmt: skip
    tags = EquipmentTags(EquipmentName="P", Communication="Virtual")
    instrument = Instrument("P", "P.json", tags, {**channels, **outputs}, points)
    personality = Personality({}, {}, controls, methods, "", "", "Controls.json")
    system = SystemConfig(
        SystemTags={"SystemName": "bench"}, Equipment={}, DataSampling={}  # type: ignore[arg-type]
    )  # fmt: skip
    return Site(
        "bench", Path("bench"), system, {"P": instrument}, personality, LinkFile(), {}, PERIOD_NS,
        (*points.values(), *own), "0" * 16,
    )  # fmt: skip


def tables(site: Site) -> list[NDArray[np.void]]:
    """Four point tables whose values cross the limits now and then; scans take turns."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(4):
        rows = np.zeros(len(site.points) + 1, dtype=POINT)
        rows["value"] = random.normal(890.0, 8.0, len(rows))
        found.append(rows)
    return found


def scans_us(engine: Engine, rows: list[NDArray[np.void]], count: int) -> list[float]:
    """Microseconds of each of `count` scans."""
    found = []
    now_ns = 0
    for at in range(count):
        now_ns += PERIOD_NS
        start = perf_counter()
        engine.scan(rows[at % len(rows)], now_ns, False)
        found.append((perf_counter() - start) * 1e6)
    return found


def library_us(rows: NDArray[np.void], rules: int) -> float:
    """Microseconds of one round of `rules` comparable rules in panzi-json-logic."""
    value = {f"P.p{at}": float(rows["value"][at + 1]) for at in range(POINTS)}
    prepared = []
    for rule in range(rules):
        a, b, c = (f"P.p{(2 * rule + at) % POINTS}" for at in range(3))
        limits = [{">=": [{"var": name}, 900]} for name in ("a", "b", "c")]
        logic: dict = {"and": [limits[0], {"<=": [{"var": "b"}, 905]}]}
        if rule % 10 == 0:
            x, y, z = limits
            logic = {"or": [{"and": [x, y]}, {"and": [x, z]}, {"and": [y, z]}]}
        data = {"a": value[a], "b": value[b], "c": value[c]}
        prepared.append(({"if": [logic, "Off", None]}, data))
    start = perf_counter()
    for logic, data in prepared:
        jsonLogic(logic, data)
    return (perf_counter() - start) * 1e6


def main() -> int:
    """Run and print."""
    options = arguments(__doc__)
    report = Report("safety")
    report.figure("rules", RULES)
    report.figure("points", POINTS)
    site = make_site(RULES)
    say("compiling 10,000 rules")
    start = perf_counter()
    program, findings = compile_site(site)
    report.figure("compile_s", perf_counter() - start)
    assert program is not None, findings[:3]
    evaluate = kernel_cache.load(Path(tempfile.gettempdir()))  # what the field process runs
    engine = Engine(program, evaluate)
    rows = tables(site)
    scans_us(engine, rows, 50)
    say("scanning")
    fast = scans_us(engine, rows, 300 if options.quick else 3000)
    report.figure("scan_p50_us", median(fast))
    report.figure("scan_p99_us", float(np.percentile(fast, 99)))
    small_site = make_site(1)
    small_program, _ = compile_site(small_site)
    assert small_program is not None
    small = scans_us(Engine(small_program, evaluate), tables(small_site), 2000)
    report.figure("scan_of_one_rule_us", median(small))

    part = RULES // 20 if options.quick else RULES // 4
    say(f"the reference and the library on {part} rules")
    part_site = make_site(part)
    part_program, _ = compile_site(part_site)
    assert part_program is not None
    oracle = Engine(part_program, reference.evaluate)
    slow = median(scans_us(oracle, tables(part_site), 3)) * RULES / part
    library = median(library_us(rows[0], part) for _ in range(3)) * RULES / part
    report.figure("reference_us", slow)
    report.figure("json_logic_library_us", library)
    report.check("scan_median_ms", median(fast) / 1000, "<=", 0.5)
    report.check("times_faster_than_reference", slow / median(fast), ">=", 200)
    report.check("times_faster_than_json_logic", library / median(fast), ">=", 50)
    return report.print(options.json)


if __name__ == "__main__":
    sys.exit(main())
