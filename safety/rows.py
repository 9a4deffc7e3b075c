"""The rules of a site as rows: read, named, and put in their order of evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from config.findings import Finding, Severity
from config.model import AlarmRule, ControlRule, Rule, StateRule
from config.points import rule_channel
from config.site import Instrument, Personality
from safety import infix, jsonlogic, layout
from safety.terms import (
    Age,
    Arithmetic,
    Call,
    Choice,
    Compare,
    Delay,
    Junction,
    Name,
    Negative,
    Not,
    Point,
    Quality,
    Ref,
    RuleSyntaxError,
    Term,
    Text,
    Vote,
    children,
    reference,
)

RowKind = Literal["alarm", "state", "control", "value"]
SECTIONS: Final[dict[RowKind, str]] = {
    "alarm": "AlarmStates",
    "state": "SystemStates",
    "control": "Automatic_Controls",
    "value": "Channels",
}
RuleKey = tuple[RowKind, str]  # what a reference leads to: kind and key of the rule


@dataclass(slots=True, eq=False)
class Row:
    """One rule on its way into the program. `term` stays None where it can't be read."""

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

    @property
    def key(self) -> str:
        """The rule's key in its file."""
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
        default = "trip" if self.kind == "control" else "hold"
        return layout.ON_BAD_NAMES.index(self.rule.OnBad or default)

    @property
    def rule_kind(self) -> int:
        """The kind in the program; see KIND_NAMES."""
        if isinstance(self.rule, ControlRule):
            return layout.KIND_TRIP if self.rule.Kind == "Trip" else layout.KIND_INTERLOCK
        if self.kind == "value":
            return layout.KIND_VALUE
        return layout.KIND_ALARM if self.kind == "alarm" else layout.KIND_STATE

    @property
    def latch(self) -> bool:
        """Whether the rule stays active until it is reset."""
        if isinstance(self.rule, ControlRule) and self.rule.Latch is None:
            return self.rule.Kind == "Trip"
        return bool(getattr(self.rule, "Latch", False))

    @property
    def is_bare_condition(self) -> bool:
        """True for ``When: alarm(X)``: the level of another rule, taken as a condition."""
        return self.form == "When" and isinstance(self.term, Ref | Point)

    @property
    def true_level(self) -> str | None:
        """The level of a rule whose condition is only true or false; None where none is named."""
        if isinstance(self.rule, AlarmRule):
            return self.rule.Level
        return self.rule.Method if isinstance(self.rule, ControlRule) else None


def is_estop(name: str) -> bool:
    """True for the rule that stands first in every matrix."""
    return name.lower().endswith("e_stop")


def collect(personality: Personality, instruments: Iterable[Instrument]) -> list[Row]:
    """Calculated points, then the active rules: alarms, states, controls, each in file order
    behind its E_Stop."""
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
        active = [Row(kind, name, rule, file) for name, rule in rules.items() if rule.Active]
        rows += sorted(active, key=lambda row: not is_estop(row.name))
    return rows


# ---------------------------------------------------------------- reading


def read(row: Row) -> list[Finding]:
    """Parse a row's condition into `row.term`."""
    rule = row.rule
    if row.kind == "value":
        return _read_expression(row)
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


def _read_expression(row: Row) -> list[Finding]:
    try:
        row.term = infix.parse(row.rule.When or "")
    except RuleSyntaxError as error:
        return [row.finding("rule-syntax", f"The expression can't be read: {error}.")]
    return []


def with_data(term: Term, data: Mapping[str, str]) -> Term:
    """The term with entries of `Data` in the place of their names."""
    if isinstance(term, Name):
        return reference(data[term.name]) if term.name in data else term
    if not children(term) or not data:
        return term
    return _rebuilt(term, tuple(with_data(inner, data) for inner in children(term)))


def _rebuilt(term: Term, inner: tuple[Term, ...]) -> Term:
    match term:
        case Not():
            return Not(inner[0])
        case Junction(op, _):
            return Junction(op, inner)
        case Compare(operator, _, _, hysteresis):
            return Compare(operator, inner[0], inner[1], hysteresis)
        case Negative():
            return Negative(inner[0])
        case Arithmetic(sign, _, _):
            return Arithmetic(sign, inner[0], inner[1])
        case Call(function, _):
            return Call(function, inner)
        case Choice():
            return Choice(inner[0], inner[1], inner[2])
        case Vote(needed, _):
            return Vote(needed, inner)
        case Delay(_, delay_ns):
            return Delay(inner[0], delay_ns)
        case Quality():
            return Quality(inner[0])
        case Age():
            return Age(inner[0])
    raise AssertionError(f"no term with parts: {term!r}")


def data_key(row: Row, term: Term) -> str:
    """The entry of `Data` that a reference came from, as a key; empty where it is in the rule."""
    for name, text in row.rule.Data.items():
        try:
            if reference(text) == term:
                return f"Data.{name}"
        except RuleSyntaxError:
            continue
    return ""


# ---------------------------------------------------------------- names and order


class Rules:
    """All rows of a site, found by reference."""

    def __init__(self, rows: list[Row], rule_tags: Mapping[str, RuleKey]) -> None:
        """`rule_tags` maps the tags of rules' own points to their rules."""
        self.rows = rows
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

    def link(self) -> None:
        """Fill in what each row uses."""
        for row in self.rows:
            if row.term is not None:
                row.uses = list(dict.fromkeys(self._used(row.term)))

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
                    path.append((start, iter(start.uses)))
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
    names = [row.name for row in path[path.index(back_to) :]]
    return back_to.finding(
        "rule-cycle",
        f"The rule depends on itself: {' -> '.join([*names, back_to.name])}. "
        "Break the circle; a rule can only use what is decided before it.",
    )
