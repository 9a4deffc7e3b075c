"""``gatepost explain``: why a point of the running gateway is what it is."""

from __future__ import annotations

import asyncio
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from gateway.cli.output import console, number, print_json
from gateway.cli.session import session
from gateway.cli.site import JsonOption, SiteArgument, StateOption, Target, target_of

WORDS_BAD: Final = {2: "never read", 3: "bad"}
Answer = Mapping[str, Any]


def explain(
    site: SiteArgument,
    point: Annotated[
        str,
        typer.Argument(
            metavar="[POINT]",
            help="An output, input, alarm, control, function or state; none: the start-up.",
        ),
    ] = "",
    state: StateOption = None,
    json: JsonOption = False,
) -> None:
    """Say why a point of the running gateway has its value, and what would change it.

    Of an output: what every rank wants and which one decides, the cause behind it with its inputs
    now and when it came, what is missing to reset it, limits, and the read-back.
    """
    answer = asyncio.run(_ask(target_of(site, state), point))
    if json:
        print_json({key: value for key, value in answer.items() if key != "type"})
        return
    out = console()
    for line in lines(answer):
        for row in wrapped(line, out.width) if out.is_terminal else (line,):
            out.print(row, soft_wrap=True)


async def _ask(target: Target, point: str) -> dict[str, Any]:
    async with session(target) as (client, _):
        return await client.request({"type": "explain", "tag": point})


def wrapped(line: str, width: int) -> list[str]:
    """A line as rows that fit on the terminal, the later ones further in than the first."""
    indent = " " * (len(line) - len(line.lstrip(" -")) + 4)
    return textwrap.wrap(
        line, max(width, 2 * len(indent)), subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
    ) or [""]  # fmt: skip


def lines(answer: Answer) -> Iterator[str]:
    """The answer as text for people."""
    match answer["kind"]:
        case "output":
            yield from _output(answer)
        case "machine":
            yield from _machine(answer)
        case "input":
            yield from _input(answer)
        case "start-up":
            yield from _startup(answer)
        case _:
            yield from _rule(answer)


# ---------------------------------------------------------------- outputs


def _output(answer: Answer) -> Iterator[str]:
    states, units = answer["states"], answer["units"]
    value = _with_units(answer["value"], units, states)
    deciding = next((row for row in answer["ladder"] if row["decides"]), None)
    if deciding is None:
        yield f"{answer['tag']}: nothing wants a value; the device keeps what it has"
    else:
        held = answer["limits"]["held_by"]
        how = f", held to it by {held}" if held else ""
        yield f"{answer['tag']} is driven to {value}: {deciding['rank']}, {deciding['by']}{how}"
    yield ""
    for row in answer["ladder"]:
        wants = "-" if row["wants"] is None else number(row["wants"], states)
        mark = ">" if row["decides"] else " "
        note = f" ({row['note']})" if row["note"] else ""
        yield f"{mark} {row['rank']:<18} {wants:<12} {row['by']}{note}".rstrip()
    yield from _limits(answer["limits"], units, states)
    if answer["permitted"]:
        yield f"setpoints are refused: {answer['permitted']}"
    yield from _read_back(answer["read_back"], units, states)
    if answer["receipt"]:
        receipt = answer["receipt"]
        reason = f": {receipt['reason']}" if receipt.get("reason") else ""
        shown = number(float(receipt["value"]), states)
        yield f"last receipt       {receipt['step']} {shown}{reason}, {_time(receipt['utc_ns'])}"
    if "cause" in answer:
        yield ""
        yield from lines(answer["cause"])


def _limits(limits: Answer, units: str, states: Sequence[str]) -> Iterator[str]:
    for name in ("low", "high"):
        limit = limits[name]
        if math.isfinite(limit):
            shown = _with_units(limit, units, states)
            word = "at least" if name == "low" else "at most"
            yield f"{word:<18} {shown}, {limits[f'{name}_cause']}"
    if limits["offset"]:
        yield f"offset             {limits['offset']:+.6g} {units}, {', '.join(limits['offsets'])}"
    low, high = limits["minimum"], limits["maximum"]
    if math.isfinite(low) or math.isfinite(high):
        yield f"range              {number(low)} to {number(high)} {units}".rstrip()
    if math.isfinite(limits["ramp_rate"]):
        target = _with_units(limits["target"], units, states)
        yield f"ramp               {limits['ramp_rate']:g} {units}/s to {target}"
    if limits["held_by"]:
        yield f"held by            {limits['held_by']}"


def _read_back(read_back: Answer, units: str, states: Sequence[str]) -> Iterator[str]:
    driven = _with_units(read_back["driven"], units, states)
    if read_back["in_flight"]:
        driven += ", a write is under way"
    yield f"written            {driven}"
    point = read_back["point"]
    if point is None:
        yield "read-back          none: nobody knows whether the device has it"
        return
    verified = "verified" if read_back["verified"] else "not verified"
    if read_back["doubted"]:
        verified = "it differs, the value is driven again"
    yield f"read-back          {_value(point)}, {verified}"


# ---------------------------------------------------------------- rules


def _rule(answer: Answer) -> Iterator[str]:
    shown = answer["level"] or ("acts" if answer["active"] else "inactive")
    yield f"{answer['kind']} {answer['name']}: {shown}{_marks(answer)}"
    if answer["since_utc_ns"]:
        yield f"  since {_time(answer['since_utc_ns'])}"
    if answer["bypass_left_s"]:
        held = ", and it would be active" if answer["held_back"] else ""
        yield f"  bypassed for another {answer['bypass_left_s']:.0f} s{held}"
    delays = (("on", answer["on_delay_s"]), ("off", answer["off_delay_s"]))
    waits = [f"{name}-delay {seconds:g} s" for name, seconds in delays if seconds]
    if waits:
        pending = answer["pending_s"]
        so_far = f", a change waits since {pending:.3g} s" if pending is not None else ""
        yield f"  {', '.join(waits)}{so_far}"
    if answer["kind"] not in ("value", "function", "guard"):
        yield f"  on bad inputs: {answer['on_bad']}"
    if answer.get("alarm"):
        yield f"  state of the alarm: {answer['alarm']}"
    if answer["kind"] == "function":
        yield f"  {answer['role']} of {answer['output']}: {_value(answer['value'])}"
        if not answer["enabled"]:
            yield "  it is not enabled:"
            yield from _parts(answer["enable"])
    yield "  now:"
    yield from _parts(answer["parts"])
    if answer["came"] and (answer["active"] or answer["latched"]):
        yield f"  when it came, {_time(answer['came']['utc_ns'])}:"
        yield from _parts(answer["came"]["parts"])
    permits = answer["kind"] in ("permissive", "guard")
    title = "needed to permit:" if permits else "what is missing to end it:"
    yield from _missing(answer["missing"], title)


def _marks(answer: Answer) -> str:
    marks = ["latched"] if answer["latched"] else []
    if answer["first_out"]:
        marks.append(f"first-out {answer['first_out']}")
    if answer["quality"] in WORDS_BAD:
        marks.append(f"its inputs are {WORDS_BAD[answer['quality']]}")
    return f" ({', '.join(marks)})" if marks else ""


def _parts(parts: Sequence[Answer]) -> Iterator[str]:
    for part in parts:
        note = f", {part['note']}" if part["note"] else ""
        yield f"    {'  ' * part['depth']}{part['text']}: {part['shown']}{note}"


def _missing(missing: Sequence[str], title: str) -> Iterator[str]:
    if missing:
        yield f"  {title}"
        for line in missing:
            yield f"    {line}"


# ---------------------------------------------------------------- machines, inputs, start-up


def _machine(answer: Answer) -> Iterator[str]:
    came = f", from {answer['before']}" if answer["before"] else ""
    yield f"{answer['name']} is in {answer['state']}"
    held = f", of which held: {answer['held']}" if answer.get("held") else ""
    yield f"  for {answer['since_s']:.0f} s{came} by {answer['by']}{held}"
    if answer["min_left_s"]:
        yield f"  stays at least another {answer['min_left_s']:.3g} s, but for urgent transitions"
    if answer["max_left_s"] is not None:
        yield f"  {answer['timeout']} follows in {answer['max_left_s']:.3g} s"
    for hold in answer["holds"]:
        verb = "holds" if hold["held"] else "proposes"
        yield f"  {verb} {hold['tag']} = {number(hold['value'], hold.get('states', ()))}"
    for way in answer["transitions"]:
        by = " or ".join([*(["by itself"] if way["automatic"] else []), *way["by"]])
        guard = f" when {way['guard']}" if way["guard"] else ""
        ready = "" if way["missing"] else ": nothing is missing"
        yield f"  to {way['to']} ({by}){guard}{ready}"
        yield from _needed(way["missing"])


def _needed(missing: Sequence[str]) -> Iterator[str]:
    """What a transition waits for; the first line stands behind the word."""
    for at, line in enumerate(missing):
        yield f"        {line}" if at else f"      needed: {line}"


def _input(answer: Answer) -> Iterator[str]:
    yield _value(answer)
    if answer["description"]:
        yield f"  {answer['description']}"
    limit = answer["age_limit_s"]
    yield f"  bad when older than {limit:g} s" if limit is not None else "  no age limit"
    if not answer["readers"]:
        yield "  no rule reads it"
    for rule in answer["read_by"]:
        shown = rule["level"] or ("active" if rule["active"] else "inactive")
        yield f"  read by {rule['kind']} {rule['name']}: {shown}{_marks(rule)}"
        yield f"      {rule['text']}"


def _startup(answer: Answer) -> Iterator[str]:
    if answer["active"]:
        yield "start-up: every output with a safe value is held at it until these were good:"
        for point in answer["waiting"]:
            yield f"  {_value(point)}, read by {', '.join(point['causes'])}"
        if not answer["waiting"]:
            yield "  all are good; the next scan ends it"
    else:
        yield "the start-up is over"
    for cause in answer["causes"]:
        shown = cause["level"] or "inactive"
        bypass = f", bypassed for another {cause['bypass_left_s']:.0f} s"
        yield f"  {cause['name']}: {shown}{_marks(cause)}{bypass if cause['bypass_left_s'] else ''}"
    for machine in answer["machines"]:
        yield f"  {machine['name']} is in {machine['state']}"


def _value(point: Answer) -> str:
    age = f", {point['age_s']:.3g} s old" if point["age_s"] is not None else ""
    shown = _with_units(point["value"], point["units"], point["states"])
    return f"{point['tag']} = {shown} ({point['status_name']}{age})"


def _with_units(value: float, units: str, states: Sequence[str]) -> str:
    return f"{number(value, states)} {units}".rstrip()


def _time(utc_ns: int) -> str:
    """A moment of UTC, to milliseconds."""
    import numpy as np

    return f"{np.datetime64(utc_ns, 'ns').astype('datetime64[ms]')}Z"
