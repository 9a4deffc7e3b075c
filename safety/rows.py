"""The rules of a site as rows: read, named, and put in their order of evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Literal

from config.findings import Finding, Severity
from config.functions import Expression, GridFunction
from config.model import AlarmRule, BadPolicy, ControlRule, Rule, StateRule
from config.points import PointDef, rule_channel, rule_tag
from config.site import Instrument, Personality
from safety import grid, infix, jsonlogic, layout
from safety.terms import (
    Choice,
    Name,
    Point,
    Ref,
    RuleSyntaxError,
    Term,
    Text,
    children,
    rebuilt,
    reference,
)

RowKind = Literal["alarm", "state", "control", "value", "guard", "function"]
SECTIONS: Final[dict[str, str]] = {
    "alarm": "AlarmStates",
    "state": "SystemStates",
    "control": "Automatic_Controls",
    "value": "Channels",
    "machine": "Control_States",
    "function": "Grid_Functions",
}
# What a condition shows that has no name of its own.
TRUE_LEVEL: Final = "true"
PERMITTED_LEVEL: Final = "Permitted"

_CONTROL_KINDS: Final = {
    "Trip": layout.KIND_TRIP,
    "Interlock": layout.KIND_INTERLOCK,
    "Permissive": layout.KIND_PERMISSIVE,
}
_KINDS: Final = {
    "alarm": layout.KIND_ALARM,
    "state": layout.KIND_STATE,
    "value": layout.KIND_VALUE,
    "guard": layout.KIND_GUARD,
    "function": layout.KIND_FUNCTION,
}
# What a bad result means where the rule doesn't say; `hold` for all others.
_ON_BAD: Final[dict[int, BadPolicy]] = {
    layout.KIND_TRIP: "trip",
    layout.KIND_INTERLOCK: "trip",
    layout.KIND_PERMISSIVE: "ignore",
    layout.KIND_GUARD: "ignore",
}
RuleKey = tuple[RowKind, str]  # what a reference leads to: kind and key of the rule


@dataclass(slots=True, eq=False)
class Row:
    """One rule on its way into the program. `term` stays None where it can't be read.

    path      key in its file, where that is not the section and the name
    function  of a grid function: what the file declares
    guard     the condition that lets a function act, or that suppresses an alarm
    behind    of a function that sets an output: the one that stands before it and goes first
    moves     a condition of a transition
    output    of a function: the output that it works on
    permits   of a permissive: indexes of the outputs that it lets be set
    """

    kind: RowKind
    name: str
    rule: Rule
    file: str
    form: str = "Rule"  # the key that holds the condition
    term: Term | None = None
    index: int = -1
    levels: tuple[str, ...] = ()
    inputs: frozenset[int] = frozenset()
    uses: list[Row] = field(default_factory=list)
    path: str = ""
    function: GridFunction | None = None
    guard: Row | None = None
    behind: Row | None = None
    moves: bool = False
    output: PointDef | None = None
    permits: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """The rule's key in its file."""
        if self.path:
            return self.path
        name = self.name.partition(".")[2] if self.kind == "value" else self.name
        return f"{SECTIONS[self.kind]}.{name}"

    def finding(
        self, rule: str, message: str, key: str = "", severity: Severity = "error"
    ) -> Finding:
        """A finding about this rule; `key` is below the rule's own."""
        return Finding(self.file, f"{self.key}.{key or self.form}", rule, message, severity)

    @property
    def on_bad(self) -> int:
        """What a bad result means; see ON_BAD_NAMES."""
        default = _ON_BAD.get(self.rule_kind, "hold")
        return layout.ON_BAD_NAMES.index(self.rule.OnBad or default)

    @property
    def rule_kind(self) -> int:
        """The kind in the program; see KIND_NAMES."""
        if isinstance(self.rule, ControlRule):
            return _CONTROL_KINDS[self.rule.Kind]
        return _KINDS[self.kind]

    @property
    def latch(self) -> bool:
        """Whether the rule stays active until it is reset."""
        if isinstance(self.rule, ControlRule) and self.rule.Latch is None:
            return self.rule.Kind == "Trip"
        return bool(getattr(self.rule, "Latch", False))

    @property
    def follows(self) -> list[Row]:
        """The rows that are evaluated before it."""
        return self.uses if self.behind is None else [*self.uses, self.behind]

    @property
    def is_bare_condition(self) -> bool:
        """True for ``When: alarm(X)``: the level of another rule, taken as a condition."""
        is_condition = self.form == "When" or self.kind == "guard"
        return is_condition and isinstance(self.term, Ref | Point)

    @property
    def true_level(self) -> str | None:
        """The level of a rule whose condition is only true or false; None where none is named."""
        if isinstance(self.rule, AlarmRule):
            return self.rule.Level
        if not isinstance(self.rule, ControlRule):
            return TRUE_LEVEL if self.kind == "guard" else None
        if self.rule.Kind == "Permissive":
            return PERMITTED_LEVEL
        return self.rule.Kind if self.rule.Effects is not None else self.rule.Method


# Turbine_Stop ends in these letters too, and is another thing.
_ESTOP: Final = re.compile(r"(?:(?<![^\W_])e_stop|(?-i:E_Stop))$", re.IGNORECASE)


def is_estop(name: str) -> bool:
    """True for the rule that stands first in every matrix: E_Stop, or a name that ends in it."""
    return _ESTOP.search(name) is not None


def collect(personality: Personality, instruments: Iterable[Instrument]) -> list[Row]:
    """Emergency stops, calculated points, then the active rules: alarms, states, controls, each in
    file order; then what suppresses alarms, and grid functions."""
    parts: tuple[tuple[RowKind, Mapping[str, Rule], str], ...] = (
        ("alarm", personality.alarms, personality.alarms_file),
        ("state", personality.states, personality.states_file),
        ("control", personality.controls, personality.controls_file),
    )
    rows = [
        Row("value", f"{i.name}.{name}", Rule(When=channel.Expression), i.file, "Expression")
        for i in instruments
        for name, channel in i.channels.items()
        if channel.Expression is not None and i.points[name].source == "virtual"
    ]
    for kind, rules, file in parts:
        rows += [Row(kind, name, rule, file) for name, rule in rules.items() if rule.Active]
    rows.sort(key=lambda row: row.kind == "value" or not is_estop(row.name))
    rows += _suppressions(rows)
    for name, function in personality.functions.items():
        form = "Value" if isinstance(function, Expression) else "Function"
        row = Row("function", name, Rule(), personality.controls_file, form, function=function)
        if function.When is not None:
            # A limit that may be on holds; a setpoint that may be off does nothing.
            is_limit = grid.role(function) in ("Maximum", "Minimum")
            on_bad: BadPolicy = "trip" if is_limit else "ignore"
            named = f"{name}: When"
            row.guard = guard_row(named, function.When, row.file, row.key, "When", on_bad=on_bad)
            rows.append(row.guard)
        rows.append(row)
    return rows


def _suppressions(rows: Iterable[Row]) -> list[Row]:
    """The guards of alarms that are suppressed by design."""
    found = []
    for row in rows:
        if isinstance(row.rule, AlarmRule) and row.rule.SuppressWhen is not None:
            text, name = row.rule.SuppressWhen, f"{row.name}: SuppressWhen"
            row.guard = guard_row(name, text, row.file, row.key, "SuppressWhen", row.rule.Data)
            found.append(row.guard)
    return found


def guard_row(
    name: str,
    text: str,
    file: str,
    path: str,
    form: str,
    data: Mapping[str, str] | None = None,
    on_bad: BadPolicy = "ignore",
) -> Row:
    """A condition that stands at the key `path`.`form` of a file."""
    rule = Rule(When=text, Data=dict(data or {}), OnBad=on_bad)
    return Row("guard", name, rule, file, form, path=path)


# ---------------------------------------------------------------- reading


def read(row: Row) -> list[Finding]:
    """Parse a row's condition into `row.term`."""
    rule = row.rule
    if row.kind in ("value", "guard"):
        return _read_infix(row)
    if row.function is not None:
        return _read_function(row, row.function)
    forms = [name for name in ("Rule", "When", "State") if getattr(rule, name, None) is not None]
    infix_form = "State" if isinstance(rule, StateRule) else "When"
    if not forms:
        row.form = infix_form
        message = f'The rule has no condition. Give it "{infix_form}" (infix) or "Rule".'
        return [row.finding("rule-no-condition", message)]
    if len(forms) > 1:
        row.form = forms[1]
        message = f"The rule has {' and '.join(forms)}; keep one, so that they can't disagree."
        return [row.finding("rule-both-forms", message)]
    row.form = forms[0]
    if row.kind == "state" and row.form == "When":
        message = (
            'A state needs a name as result: use "State", e.g. '
            "\"if(Stack.T >= 500, 'Hot', 'Cold')\"."
        )
        return [row.finding("rule-type", message)]
    try:
        if row.form == "Rule":
            row.term = jsonlogic.parse(rule.Rule, rule.Data)
        else:
            row.term = with_data(infix.parse(getattr(rule, row.form)), rule.Data)
    except RuleSyntaxError as error:
        return [row.finding("rule-syntax", f"The rule can't be read: {error}.")]
    return []


def _read_infix(row: Row) -> list[Finding]:
    what = "expression" if row.kind == "value" else "condition"
    try:
        row.term = with_data(infix.parse(row.rule.When or ""), row.rule.Data)
    except RuleSyntaxError as error:
        return [row.finding("rule-syntax", f"The {what} can't be read: {error}.")]
    return []


def _read_function(row: Row, function: GridFunction) -> list[Finding]:
    faults = grid.check(function)
    if not any(fault.severity == "error" for fault in faults):
        row.term = grid.term(function)
    return [row.finding(fault.rule, fault.message, fault.key, fault.severity) for fault in faults]


def with_data(term: Term, data: Mapping[str, str]) -> Term:
    """The term with entries of `Data` in the place of their names."""
    if isinstance(term, Name):
        return _entry(term, data)
    if not children(term) or not data:
        return term
    return rebuilt(term, tuple(with_data(inner, data) for inner in children(term)))


def _entry(name: Name, data: Mapping[str, str]) -> Term:
    if name.name not in data:
        return name
    try:
        return replace(reference(data[name.name]), position=name.position)
    except RuleSyntaxError as error:
        raise RuleSyntaxError(f'entry "{name.name}" of Data: {error.message}') from None


def data_key(row: Row, term: Term) -> str:
    """The entry of `Data`, or the key of a grid function, that a term came from; empty where it
    is in the rule itself."""
    if row.function is not None:
        return _function_key(row.function, term)
    for name, text in row.rule.Data.items():
        try:
            if reference(text) == term:
                return f"Data.{name}"
        except RuleSyntaxError:
            continue
    return ""


def _function_key(function: GridFunction, term: Term) -> str:
    for name, text in function:
        if isinstance(text, str) and name not in ("Output", "When", "Description"):
            try:
                if term in _parts(infix.parse(text)):
                    return name
            except RuleSyntaxError:
                continue
    return ""


def _parts(term: Term) -> Iterator[Term]:
    yield term
    for inner in children(term):
        yield from _parts(inner)


# ---------------------------------------------------------------- names and order


class Rules:
    """All rows of a site, found by reference."""

    def __init__(
        self,
        rows: list[Row],
        rule_tags: Mapping[str, RuleKey],
        machines: Mapping[str, tuple[str, ...]],
    ) -> None:
        """`rule_tags` maps the tags of rules' own points to their rules, `machines` the tags of
        control states' points to the names of their states."""
        self.rows = rows
        self._machines = machines
        self._by_key: dict[RuleKey, Row] = {(row.kind, row.name): row for row in rows}
        self._by_channel: dict[RuleKey, Row] = {}
        for row in rows:
            self._by_channel.setdefault((row.kind, rule_channel(row.name)), row)
        self._tags = rule_tags

    def of_ref(self, ref: Ref) -> Row | None:
        """The rule of ``alarm(name)`` or ``state(name)``; the folder may be left out."""
        found = self._by_key.get((ref.kind, ref.name))
        return found or self._by_channel.get((ref.kind, rule_channel(ref.name)))

    def of_tag(self, tag: str) -> Row | None:
        """The rule whose own point has this tag."""
        key = self._tags.get(tag)
        return None if key is None else self._by_key.get(key)

    def machine_states(self, term: Ref | Point) -> tuple[str, ...]:
        """The states of the machine that a term names; none where it names none."""
        if isinstance(term, Point):
            return self._machines.get(term.tag, ())
        if term.kind != "state":
            return ()
        return self._machines.get(rule_tag("machine", term.name), ())

    def link(self) -> None:
        """Fill in what each row uses, and which function it stands behind."""
        setters: dict[str, Row] = {}
        for row in self.rows:
            if row.function is not None and grid.role(row.function) == "Setpoint":
                row.behind = setters.get(row.function.Output)
                setters[row.function.Output] = row
            used = () if row.term is None else self._used(row.term)
            enable = [] if row.guard is None or row.function is None else [row.guard]
            row.uses = list(dict.fromkeys([*enable, *used]))

    def _used(self, term: Term) -> Iterator[Row]:
        found = None
        if isinstance(term, Ref):
            found = self.of_ref(term)
        elif isinstance(term, Point):
            found = self.of_tag(term.tag)
        if found is not None:
            yield found
        for inner in children(term):
            yield from self._used(inner)

    def settle_levels(self, ordered: list[Row]) -> None:
        """Fill in what each row can return; what it uses stands before it in `ordered`."""
        for row in ordered:
            names: tuple[str, ...] = ()
            if row.term is not None and not row.is_bare_condition:
                names = tuple(dict.fromkeys(self._names(row.term)))
            if not names and row.true_level is not None:
                names = (row.true_level,)
            row.levels = names

    def _names(self, term: Term) -> Iterator[str]:
        if isinstance(term, Text):
            yield term.value
        elif isinstance(term, Choice):
            yield from self._names(term.value)
            yield from self._names(term.other)
        elif isinstance(term, Ref | Point):
            found = self.of_ref(term) if isinstance(term, Ref) else self.of_tag(term.tag)
            if found is not None:
                yield from found.levels
            else:
                yield from self.machine_states(term)

    def ordered(self) -> tuple[list[Row], list[Finding]]:
        """The rows behind what they use, otherwise as they came; and a finding a cycle."""
        done: dict[Row, None] = {}
        findings = []
        for first in self.rows:
            path: list[tuple[Row, Iterator[Row]]] = []
            on_path: set[Row] = set()
            start: Row | None = first if first not in done else None
            while start is not None or path:
                if start is not None:
                    path.append((start, iter(start.follows)))
                    on_path.add(start)
                row, rest = path[-1]
                start = next(rest, None)
                if start is None:
                    path.pop()
                    on_path.discard(row)
                    done[row] = None
                elif start in on_path:
                    findings.append(_cycle([r for r, _ in path], start))
                    start = None
                elif start in done:
                    start = None
        return list(done), findings

    def names_of_kind(self, kind: RowKind) -> tuple[str, ...]:
        """All levels that rules of a kind can return."""
        names = (name for row in self.rows if row.kind == kind for name in row.levels)
        return tuple(dict.fromkeys(names))


def _cycle(path: list[Row], back_to: Row) -> Finding:
    circle = [*path[path.index(back_to) :], back_to]
    message = (
        f"The rule depends on itself: {' -> '.join(row.name for row in circle)}. "
        "Break the circle; a rule can only use what is decided before it."
    )
    if any(row.behind is used and used not in row.uses for row, used in pairwise(circle)):
        message += " Of functions that set one output the first in the file is decided first."
    return back_to.finding("rule-cycle", message)
