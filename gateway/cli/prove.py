"""``gatepost prove``: whether every loss of an input ends safely, and the history where not."""

from __future__ import annotations

import csv
import math
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.output import EXIT_BAD, CommandFailed, console, counted, number, print_json, table
from gateway.cli.site import JsonOption, SiteArgument, need_folder
from gateway.cli.times import duration_option, duration_text
from gateway.core.clock import Clock, SystemClock, seeded

if TYPE_CHECKING:
    from config.site import Site
    from safety.layout import Program
    from safety.prove import Counterexample, Part, Report, Task, Verdict
    from safety.prove_whole import Table

BUDGET: Final = "60s"
TELL_NS: Final = 500_000_000
START: Final = "2026-01-01T00:00:00"  # of the times in a case; any other would do


def prove(
    site: SiteArgument,
    budget: Annotated[
        str, typer.Option("--budget", metavar="TIME", help="How long to search, e.g. 60s.")
    ] = BUDGET,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Of the histories that are drawn.")
    ] = 1,
    within: Annotated[
        str | None,
        typer.Option("--within", metavar="TIME", help="Every cause has to act within this time."),
    ] = None,
    case: Annotated[
        Path | None,
        typer.Option("--case", metavar="DIR", help="Write every counterexample there."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Prove that protected outputs are safe whatever inputs are lost, or show where not.

    Exit status 0 where nothing breaks a claim, though not all may be proved; 1 where a history
    breaks one; 2 where the site can't be looked at. docs/prove.md says what is claimed.
    """
    budget_s = duration_option("--budget", budget) / 1e9
    within_ns = duration_option("--within", within)
    if seed < 0:
        raise CommandFailed("--seed: a whole number, 0 or more")
    folder = need_folder(site)
    if case is not None:
        case.mkdir(parents=True, exist_ok=True)  # before the search: it may take long
    report = run(folder, budget_s, seed, within_ns)
    written = _write_cases(case, report, site) if case is not None else []
    if json:
        print_json({"site": str(site), **plain(report), "cases": [str(path) for path in written]})
    else:
        _show(report, site)
        for path in written:
            console(stderr=True).print(f"written: {path}")
    if report.counterexamples:
        raise typer.Exit(EXIT_BAD)


def run(folder: Path, budget_s: float, seed: int, within_ns: int) -> Report:
    """Prove the site in a folder. Raises SiteError or CommandFailed."""
    from config.load import require_site
    from safety.compile import require_program
    from safety.prove import prove as search

    site = require_site(folder)
    task = _task(require_program(site), site, budget_s, seed, within_ns)
    try:
        return search(task)
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _task(program: Program, site: Site, budget_s: float, seed: int, within_ns: int) -> Task:
    from gateway import kernel_cache
    from safety.prove import Task

    try:
        # Never from a folder that others may write: what lies there is run.
        with tempfile.TemporaryDirectory(prefix="gatepost-") as folder:
            evaluate = kernel_cache.load(Path(folder))
    except kernel_cache.KernelError as error:
        raise CommandFailed(str(error)) from error
    clock = SystemClock()
    began_ns = clock.monotonic_ns()
    return Task(
        program=program,
        points={point.index: point for point in site.points},
        evaluate=evaluate,
        scan_period_ns=site.scan_period_ns,
        draw=seeded(seed),
        spent_s=lambda: (clock.monotonic_ns() - began_ns) / 1e9,
        budget_s=budget_s,
        tell=_Progress(clock).tell,
        within_ns=within_ns,
    )


class _Progress:
    """What is being looked at, on standard error; on a terminal one line that changes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_ns = clock.monotonic_ns() + TELL_NS
        self._ends = sys.stderr.isatty()

    def tell(self, text: str) -> None:
        """Show it, where the last time is long enough ago."""
        if self._clock.monotonic_ns() < self._due_ns:
            return
        self._due_ns = self._clock.monotonic_ns() + (TELL_NS if self._ends else 20 * TELL_NS)
        if self._ends:
            print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- for people


def _show(report: Report, site: Path) -> None:
    out = console()
    shown = table("OUTPUT", "SAFE", "RESULT", "WITHIN", "CAUSES", "E-STOP")
    for verdict in report.outputs:
        within = duration_text(verdict.stated_ns) if verdict.causes else "-"
        stop = "yes" if verdict.emergency_stop else "no"
        causes = str(len(verdict.causes))
        safe = number(verdict.safe)
        shown.add_row(verdict.tag, safe, verdict.result, within, causes, stop)
    out.print(shown)
    out.print()
    for line in _effort(report):
        out.print(line, soft_wrap=True)
    for at, found in enumerate(report.counterexamples, 1):
        out.print()
        _show_counterexample(at, found)
    cases = counted(len(report.counterexamples), "counterexample")
    console(stderr=True).print(f"{site}: {_sum(report)}; {cases}", soft_wrap=True)


def _sum(report: Report) -> str:
    """How many outputs have which result; those that are always told also where there are none."""
    results = [verdict.result for verdict in report.outputs]
    always = ("proved", "sampled", "refuted")
    told = [*always, *(name for name in ("open", "start-up only") if name in results)]
    return ", ".join(f"{results.count(name)} {name}" for name in told)


def _effort(report: Report) -> Iterator[str]:
    """How each cause was looked at, once each."""
    parts: dict[tuple[str, ...], Part] = {}
    for verdict in report.outputs:
        for part in verdict.causes:
            parts[part.rules] = part
    for part in [*parts.values(), *report.machines]:
        yield f"{' with '.join(part.rules)}: {part_text(part)}"
    yield f"start-up: {counted(report.startup_cases, 'case')} of one lost input, all others good"
    if report.histories:
        yield f"whole site at once: {report.histories} histories were drawn"
    yield from (f"note: {note}" for note in report.notes)


def part_text(part: Part) -> str:
    """What was done for one cause, and why it is a proof or none."""
    effort = part.effort
    if part.is_proof:
        bypass = " while not bypassed," if part.bypass else ""
        return (
            f"proved{bypass} over {counted(effort.states, 'state')} x "
            f"{counted(effort.combinations, 'combination')} of inputs"
        )
    why = f" (no proof: {'; '.join(part.why)})" if part.why else ""
    if not part.why:
        return f"a counterexample after {counted(effort.states, 'state')}"
    if part.open:
        return f"open{why}"
    if not effort.histories:
        return f"no proof: {'; '.join(part.why)}"
    histories = "1 history" if effort.histories == 1 else f"{effort.histories} histories"
    return f"no counterexample in {histories}{why}"


def _show_counterexample(at: int, found: Counterexample) -> None:
    out = console()
    out.print(f"counterexample {at}: {explanation(found)}", soft_wrap=True)
    if found.table.rows:
        out.print(_drawn(found.table))
        for line in _notes(found.table):
            out.print(line, soft_wrap=True)


def explanation(found: Counterexample) -> str:
    """What a counterexample shows, in words."""
    from safety.prove import claim_text

    about = ", ".join(found.outputs) or found.rule
    text = f"{about}: not true that {claim_text(found.claim)}"
    if found.known is not None:
        lost = _differences(found.table, found.known)
        text += f". With {lost} known, {found.rule} would act; as it is, {found.text}"
    else:
        text += f". {found.rule or 'Here'}: {found.text}"
    return text + "."


def _differences(lost: Table, known: Table) -> str:
    """The inputs that are lost at the end, with the value that would have acted."""
    before, after = lost.rows[-1][1], known.rows[-1][1]
    pairs = zip(lost.columns, before, after, strict=True)
    return ", ".join(f"{tag} = {value}" for tag, cell, value in pairs if cell != value)


def history_lines(shown: Table) -> list[list[str]]:
    """A history as lines of cells, the first one with the times.

    It has what changes and what the causes in question read, also where that stays the same.
    """
    times = [f"{time_ns / 1e9:g} s" for time_ns, _ in shown.rows]
    lines = [["INPUT", *times]]
    for at, tag in enumerate(shown.columns):
        cells = [row[at] for _, row in shown.rows]
        if tag in shown.matters or len(set(cells)) > 1:
            lines.append([tag, *cells])
    return lines


def _drawn(shown: Table) -> Any:
    head, *lines = history_lines(shown)
    drawn = table(*head)
    for line in lines:
        drawn.add_row(*line)
    return drawn


def _notes(shown: Table) -> Iterator[str]:
    """What somebody does before a scan, and how old values are."""
    for (time_ns, _), note in zip(shown.rows, shown.notes, strict=True):
        if note:
            yield f"{time_ns / 1e9:g} s: {note}"


# ---------------------------------------------------------------- cases


def _write_cases(folder: Path, report: Report, site: Path) -> list[Path]:
    """Every counterexample as CSV that ``gatepost replay`` reads, and a text that explains it."""
    written = []
    for at, found in enumerate(report.counterexamples, 1):
        if not found.table.rows:
            continue
        name = f"case-{at}"
        files = {f"{name}.csv": found.table}
        if found.known is not None:
            files[f"{name}-known.csv"] = found.known
        for file, rows in files.items():
            write_csv(folder / file, rows)
            written.append(folder / file)
        path = folder / f"{name}.md"
        path.write_text(
            _case_text(folder / name, found, site, report.scan_period_ns), encoding="utf-8"
        )
        written.append(path)
    return written


def write_csv(path: Path, shown: Table) -> None:
    """A history as CSV: a column of times and a column a point.

    A point that was not read yet has no value, so its cell is empty. Where one that was read is
    ``never`` again, which only a restart can bring, a row a value says so with its status.
    """
    seen: set[int] = set()
    again = False
    for _, cells in shown.rows:
        for at, cell in enumerate(cells):
            again |= cell == "never" and at in seen
            if cell != "never":
                seen.add(at)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(_long(shown) if again else _wide(shown))


def _wide(shown: Table) -> Iterator[list[str]]:
    yield ["time", *shown.columns]
    for time_ns, cells in shown.rows:
        yield [_moment(time_ns), *("" if cell == "never" else cell for cell in cells)]


def _long(shown: Table) -> Iterator[list[str]]:
    yield ["time", "tag", "value", "status"]
    for time_ns, cells in shown.rows:
        for tag, cell in zip(shown.columns, cells, strict=True):
            if not cell:
                continue
            codes = {"never": "BadWaitingForInitialData", "bad": "BadNoCommunication"}
            value = "bad" if cell in codes else cell
            yield [_moment(time_ns), tag, value, codes.get(cell, "Good")]


def _moment(time_ns: int) -> str:
    import numpy as np

    return f"{np.datetime64(START, 'ns') + np.timedelta64(time_ns, 'ns')}Z"


def _case_text(path: Path, found: Counterexample, site: Path, every_ns: int) -> str:
    notes = list(_notes(found.table))
    head, *lines = history_lines(found.table)
    drawn = [head, ["---"] * len(head), *lines]
    more = "\n" + "".join(f"| {' | '.join(line)} |\n" for line in drawn)
    more += f"\nBefore the scans: {'; '.join(notes)}.\n" if notes else ""
    if any("bypass of" in note or " s old" in note for note in notes):
        more += "\nA file can't say that: a replay shows what happens without.\n"
    known = f"{path.name}-known.csv"
    with_known = f"\n`{known}` is the same with the lost inputs known.\n" if found.known else ""
    command = replay_command(path, found, site, every_ns)
    return (
        f"# {found.claim}: {', '.join(found.outputs) or found.rule}\n\n{explanation(found)}\n{more}"
        f"{with_known}\nReplay it with\n\n```sh\n{command}\n```\n"
    )


def replay_command(path: Path, found: Counterexample, site: Path, every_ns: int) -> str:
    """How to see the counterexample: scans go on, values stand, and nobody else resets."""
    longest_s = max(shown.rows[-1][0] for shown in (found.table, found.known or found.table)) / 1e9
    options = f"--every {every_ns / 1e6:g}ms --hold {math.ceil(longest_s) + 1}s --reset-after never"
    if found.table.requests:
        options += " --follow-states"
    return f"gatepost replay {shlex.quote(str(site))} {shlex.quote(f'{path}.csv')} {options}"


# ---------------------------------------------------------------- for programs


def plain(report: Report) -> dict[str, Any]:
    """The report as JSON holds it."""
    return {
        "outputs": [_verdict(verdict) for verdict in report.outputs],
        "machines": [_part(part) for part in report.machines],
        "counterexamples": [
            {
                "claim": found.claim,
                "outputs": list(found.outputs),
                "rule": found.rule,
                "text": explanation(found),
                "history": _rows(found.table),
                "known": _rows(found.known) if found.known is not None else None,
            }
            for found in report.counterexamples
        ],
        "startup_cases": report.startup_cases,
        "histories": report.histories,
        "notes": report.notes,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "tag": verdict.tag,
        "safe": verdict.safe,
        "result": verdict.result,
        "stated_s": verdict.stated_ns / 1e9,
        "seen_s": verdict.worst_ns / 1e9,
        "emergency_stop": verdict.emergency_stop,
        "causes": [_part(part) for part in verdict.causes],
    }


def _part(part: Part) -> dict[str, Any]:
    effort = asdict(part.effort)
    for name in ("why", "closed", "is_too_large", "worst_ns"):
        del effort[name]
    return {"rules": list(part.rules), "proof": part.is_proof, "why": list(part.why), **effort}


def _rows(shown: Table) -> list[dict[str, Any]]:
    return [
        {
            "time_s": time_ns / 1e9,
            "inputs": dict(zip(shown.columns, cells, strict=True)),
            "action": note,
        }
        for (time_ns, cells), note in zip(shown.rows, shown.notes, strict=True)
    ]
