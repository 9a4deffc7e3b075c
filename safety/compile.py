"""From a site's rules to one program of numbers, and everything that is wrong with them.

`gateway check` prints the findings; the field process runs the program.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from config.findings import Finding, Severity, SiteError
from config.functions import Expression
from config.model import ControlRule
from config.points import RESERVED_EQUIPMENT, PointDef, rule_tag
from config.site import Site
from safety import grid, grid_findings, layout
from safety.checks import check_program
from safety.effects import Drive, Methods, Outputs, Report
from safety.emit import Emitter, Piece, Target
from safety.layout import (
    ACTION,
    EFFECT,
    MACHINE,
    MODE,
    RULE,
    SEGMENT,
    TRANSITION,
    WATCH,
    Program,
    RuleInfo,
)
from safety.rows import SECTIONS, Row, RuleKey, Rules, collect, data_key, is_estop, read
from safety.states import Machines
from safety.terms import Point, Ref, Term, placed, show

_KIND_RANKS: Final = {
    layout.KIND_TRIP: layout.RANK_TRIP,
    layout.KIND_INTERLOCK: layout.RANK_INTERLOCK,
}


def compile_site(site: Site) -> tuple[Program | None, list[Finding]]:
    """The program of a site's active rules, and all findings, sorted.

    The program is None where a rule or an effect could not be compiled: a plant with half its
    trips is worse than one that does not start. Never raises on what the rules hold.
    """
    compiler = _Compiler(site)
    program = compiler.program()
    return program, sorted(set(compiler.findings))


def require_program(site: Site) -> Program:
    """The program of a site whose rules must be right. Raises SiteError with all their errors."""
    program, findings = compile_site(site)
    errors = [finding for finding in findings if finding.severity == "error"]
    if program is None or errors:
        raise SiteError(errors)
    return program


class _Compiler:
    """One compilation; the `Scope` of its emitters."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._points: dict[str, PointDef] = {point.tag: point for point in site.points}
        self.findings: list[Finding] = []
        self._outputs = Outputs(site)
        self._machines = Machines(site, self._outputs)
        rows = collect(site.personality, site.instruments.values()) + self._machines.guards
        tags: dict[str, RuleKey] = {
            _tag(row): (row.kind, row.name) for row in rows if row.kind != "guard"
        }
        self._rules = Rules(rows, tags, self._machines.levels)
        self._texts: dict[str, int] = {"": 0}
        self._consts: dict[str, int] = {}
        self._const_values: list[float] = []
        self._slots = 0
        self._floats = 0
        self._code: list[int] = []
        self._depth = 1
        self._row: Row | None = None  # the one that is being emitted
        self._spans: dict[Row, tuple[tuple[int, Term], ...]] = {}
        gateway = [point.tag for point in site.points if point.source == "gateway"]
        self._equipment = (*site.instruments, *RESERVED_EQUIPMENT)
        self._own_tags = _by_equipment([*gateway, *tags, *self._machines.levels])
        self._complete = True

    def program(self) -> Program | None:
        for row in self._rules.rows:
            self._blocking(read(row))
        self._rules.link()
        rows, cycles = self._rules.ordered()
        self._blocking(cycles)
        self._rules.settle_levels(rows)
        for index, row in enumerate(rows):
            row.index = index
        for row in rows:
            self._place(row)
        spans = [self._emit(row) for row in rows]
        self._blocking(self._machines.findings)
        methods = Methods(self._site, self._outputs)
        self._blocking(methods.findings)
        methods.findings = []
        effects = methods.effects(rows, self.text_id)
        self._blocking(methods.findings)
        methods.findings = []
        methods.check_outputs(effects)
        self.findings += methods.findings
        self._check_estop(rows)
        self.findings += check_program(self._site, rows, effects, self._machines.all)
        self.findings += grid_findings.findings(self._site)
        return self._assemble(rows, spans, effects) if self._complete else None

    def _blocking(self, findings: list[Finding]) -> None:
        """Findings of which the errors leave the program incomplete."""
        self.findings += findings
        if any(finding.severity == "error" for finding in findings):
            self._complete = False

    def _place(self, row: Row) -> None:
        """Find the output that a grid function works on, and check its number on bad inputs."""
        function = row.function
        if function is None:
            return

        def report(key: str) -> Report:
            return lambda rule, message: self._blocking([row.finding(rule, message, key)])

        row.output = self._outputs.of_tag(function.Output, report("Output"))
        if row.output is None:
            return
        is_offset = grid.role(function) == "Offset"
        if function.BadValue is not None and not is_offset:
            self._outputs.value(row.output, function.BadValue, report("BadValue"))
        if not self._outputs.is_analog(row.output) and grid.role(function) != "Setpoint":
            message = f"{row.output.tag} is discrete; it takes a setpoint, but no limit or offset."
            report("Output")("function-discrete", message)

    # ------------------------------------------------------------ one rule

    def _emit(self, row: Row) -> tuple[int, int, int]:
        """Append a row's code; returns its start, its stop and the level of a true condition."""
        start = len(self._code)
        self._row = row
        self._check_delays(row)
        if row.term is None or not self._inputs_fit(row):
            return start, start, 0
        emitter = Emitter(self, self._report, row.on_bad)
        piece = emitter.emit(row.term)
        if row.is_bare_condition:
            piece = emitter.condition(piece)
        if piece.kind in ("number", "switch"):
            piece = emitter.result(piece, row.term, self._units(row))
        row.inputs |= {index for used in row.uses if used is not row.guard for index in used.inputs}
        self._spans[row] = tuple(piece.spans)
        self._code += piece.code
        self._depth = max(self._depth, piece.depth)
        return start, len(self._code), self._result_level(row, piece)

    def _units(self, row: Row) -> str:
        """The units of the point that a row's number goes to; '' where they aren't checked."""
        if row.kind == "value":
            return self._points[row.name].units
        if isinstance(row.function, Expression) and row.output is not None:
            return row.output.units
        return ""

    def _inputs_fit(self, row: Row) -> bool:
        """Whether the inputs of a grid function have the units that it takes them in.

        Between them and its result stand plain numbers (limits, ratings, curves), which take any
        unit: a W for a kW would not be seen in the whole.
        """
        if row.function is None or row.output is None or isinstance(row.function, Expression):
            return True
        before = len(self.findings)
        kept = self._slots, self._floats
        for key, term, units in grid.inputs(row.function, row.output.units):
            report = self._reporter(key)
            emitter = Emitter(self, report, row.on_bad)
            piece = emitter.emit(term)
            foreign = grid_findings.foreign(key, term, units, piece.measure)
            if foreign:
                report("unit-mismatch", foreign)
            elif piece.kind in ("number", "switch") and units:
                fitted = emitter.result(piece, term, units)
                if fitted.code != piece.code:
                    text = f"Write the number in {units}; it is not converted here."
                    report("unit-mismatch", text)
        self._slots, self._floats = kept
        return len(self.findings) == before

    def _reporter(self, key: str) -> Report:
        def report(rule: str, message: str) -> None:
            assert self._row is not None
            self._blocking([self._row.finding(rule, message, key, _severity(rule))])

        return report

    def _result_level(self, row: Row, piece: Piece) -> int:
        """The string id that a true condition stands for; 0 where the code gives names."""
        if row.kind in ("value", "function"):
            if piece.kind not in ("number", "boolean", "switch", "any"):
                self._report("rule-type", "The expression gives a name; a number is needed.")
            return 0
        is_condition = piece.kind in ("boolean", "switch") or row.is_bare_condition
        if piece.kind == "any":
            return 0
        if "" in row.levels:  # the id of the empty name is that of an inactive rule
            self._report("rule-type", "A level can't be an empty name; write null.")
            return 0
        if row.kind == "state" and is_condition:
            self._report("rule-type", "The rule is true or false; a state needs a name as result.")
        elif row.is_bare_condition and piece.target is not None and piece.target.machine >= 0:
            message = "A machine always is in some state, so this is always true; compare it."
            self._report("rule-type", message)
        elif piece.kind == "name" and not is_condition and _needs_truth(row):
            message = "The condition gives a name, but here it must be true or false; compare it."
            self._report("rule-type", message)
        elif piece.kind == "number":
            self._report(
                "rule-type", "The rule gives a number; compare it, or return a name with if()."
            )
        elif is_condition and row.true_level is None:
            self._report(
                "rule-no-condition" if not row.levels else "rule-type",
                'The rule is true or false, so it must say which "Method" it calls, or which '
                '"Effects" it has.',
            )
        elif is_condition:
            return self.text_id(row.true_level or "")
        elif not row.levels:
            self._report("rule-type", "The rule never returns a name; return one with if().")
        for name in row.levels:
            self.text_id(name)
        return 0

    def _check_delays(self, row: Row) -> None:
        for name in ("OnDelay", "OffDelay"):
            if getattr(row.rule, name) > layout.DELAY_S_MAX:
                message = f"A delay lasts at most {layout.DELAY_S_MAX} s."
                self._blocking([row.finding("value-out-of-range", message, name)])

    def _report(self, rule: str, message: str, term: Term | None = None) -> None:
        assert self._row is not None
        key = ""
        if term is not None:
            key, message = data_key(self._row, term), placed(message, term)
        finding = self._row.finding(rule, message, key, _severity(rule))
        # A level that never comes is an error to mend, but the code of the rule is whole.
        if rule == "level-unreachable":
            self.findings.append(finding)
        else:
            self._blocking([finding])

    # ------------------------------------------------------------ the emitter's scope

    def point(self, term: Point) -> PointDef | Target | None:
        """See safety.pieces.Scope."""
        assert self._row is not None
        tag = term.tag
        used = self._rules.of_tag(tag)
        if used is not None and used.kind not in ("value", "function"):
            return self._of_row(used)
        if tag in self._machines.rows:
            return self._of_machine(tag)
        point = self._points.get(tag)
        if point is None or point.source == "rule":
            self._report("reference-undefined", self._undefined(tag), term)
            return None
        if not point.readable:
            message = (
                f"{tag} can only be written, so its value is never known. Give its channel "
                "ReadWrite RW, or use the channel that shows it."
            )
            self._report("point-not-readable", message, term)
            return None
        if used is None:
            self._row.inputs |= {point.index}
        return point

    def _undefined(self, tag: str) -> str:
        equipment = tag.partition(".")[0]
        message = f"There is no active point {tag}. "
        instrument = self._site.instruments.get(equipment)
        if instrument is None and equipment in RESERVED_EQUIPMENT:
            return message + self._outputs.nearest(tag, self._own_tags[equipment])
        if instrument is None:
            return message + self._outputs.nearest(equipment, self._equipment)
        return message + self._outputs.nearest(tag, {p.tag: p for p in instrument.points.values()})

    def target(self, ref: Ref) -> Target | None:
        """See safety.pieces.Scope."""
        used = self._rules.of_ref(ref)
        if used is not None:
            return self._of_row(used)
        tag = rule_tag("machine", ref.name)
        if ref.kind == "state" and tag in self._machines.rows:
            return self._of_machine(tag)
        names = [row.name for row in self._rules.rows if row.kind == ref.kind]
        if ref.kind == "state":
            names += [machine.name for machine in self._machines.all]
        message = f'There is no active {ref.kind} "{ref.name}" in {SECTIONS[ref.kind]}. '
        self._report("reference-undefined", message + self._outputs.nearest(ref.name, names), ref)
        return Target(0, "name", self._rules.names_of_kind(ref.kind), exists=False)

    def _of_row(self, row: Row) -> Target | None:
        if row.term is None:
            return None
        # A trip whose inputs are lost is active, and what a transition must hear of.
        of_plant = row.rule_kind in _KIND_RANKS and row.on_bad == layout.ON_BAD_TRIP
        stands = of_plant and self._row is not None and self._row.moves
        return Target(row.index, "name", row.levels, stands=stands)

    def _of_machine(self, tag: str) -> Target:
        return Target(0, "name", self._machines.levels[tag], machine=self._machines.rows[tag])

    def text_id(self, name: str) -> int:
        """See safety.pieces.Scope."""
        return self._texts.setdefault(name, len(self._texts)) if name else 0

    def const_id(self, value: float) -> int:
        """See safety.pieces.Scope."""
        key = value.hex()
        if key not in self._consts:
            self._consts[key] = len(self._const_values)
            self._const_values.append(value)
        return self._consts[key]

    def new_slots(self, count: int = 1) -> int:
        """See safety.pieces.Scope."""
        self._slots += count
        return self._slots - count

    def new_floats(self, count: int = 1) -> int:
        """See safety.pieces.Scope."""
        self._floats += count
        return self._floats - count

    def period_ns(self, point: PointDef) -> int:
        """See safety.pieces.Scope."""
        used = self._rules.of_tag(point.tag)
        if used is not None:
            inputs = (self._site.points[index - 1] for index in used.inputs)
            return max((self.period_ns(each) for each in inputs), default=0)
        instrument = self._site.instruments.get(point.equipment)
        return 0 if instrument is None else instrument.periods_ns.get(point.scan_class, 0)

    # ------------------------------------------------------------ the whole

    def _check_estop(self, rows: list[Row]) -> None:
        personality = self._site.personality
        controls = [row for row in rows if row.kind == "control"]
        acts = bool(controls) or any(point.is_output for point in self._site.points)
        # An alarm of that name stops nothing by itself, and neither does a permissive.
        causes = [row for row in controls if row.rule_kind in _KIND_RANKS]
        causes += [used for row in causes for used in row.uses]
        if not acts or any(is_estop(cause.name) for cause in causes):
            return
        file = personality.controls_file or personality.alarms_file or "personality"
        message = (
            "The site has outputs or controls but no emergency stop. Add a control E_Stop that "
            'drives the outputs to their safe state, e.g. "When": "Gateway.E_Stop == 1".'
        )
        key = f"{SECTIONS['control']}.E_Stop"
        self.findings.append(Finding(file, key, "estop-missing", message, "warning"))

    def _assemble(
        self,
        rows: list[Row],
        spans: list[tuple[int, int, int]],
        effects: list[tuple[Row, int, Drive]],
    ) -> Program:
        rules = np.zeros(len(rows), dtype=RULE)
        for row, (start, stop, level_true) in zip(rows, spans, strict=True):
            first = self.text_id(row.levels[0]) if row.levels else 0
            delays = round(row.rule.OnDelay * 1e9), round(row.rule.OffDelay * 1e9)
            kind, latch = row.rule_kind, int(row.latch)
            point = self._points.get(_tag(row)) if row.kind in ("value", "function") else None
            shown = 0 if point is None else point.index
            words = (start, stop, kind, row.on_bad, level_true, first, latch, shown)
            rules[row.index] = (*delays, np.nan, *words, 0, 0, -1)
        driven = {drive.point.index: drive.point for _, _, drive in effects}
        driven |= {point.index: point for point in self._machines.points()}
        driven |= {row.output.index: row.output for row in rows if row.output is not None}
        for point in self._site.points:
            if point.is_output and not np.isnan(point.safe_value):
                driven[point.index] = point
        outputs = sorted(driven)
        numbers = {index: number for number, index in enumerate(outputs)}
        for row in rows:
            _function_words(rules[row.index], row, numbers)
        table = np.zeros(len(effects), dtype=EFFECT)
        for at, (row, method, drive) in enumerate(effects):
            rank = _KIND_RANKS[row.rule_kind]
            table[at] = (row.index, method, numbers[drive.point.index], rank, drive.value)
        watch = [
            (row.index, point)
            for row in rows
            if row.rule_kind in _KIND_RANKS
            for point in sorted(row.inputs)
        ]
        protective = np.zeros(len(self._site.points) + 1, dtype=np.bool_)
        protective[[point for _, point in watch]] = True
        machines = self._machines.arrays(numbers, self.text_id)
        return Program(
            info=tuple(self._info(row) for row in rows),
            strings=tuple(self._texts),
            rules=_frozen(rules, RULE),
            code=_frozen(self._code, np.int32),
            consts=_frozen(self._const_values, np.float64),
            slots=self._slots,
            floats=self._floats,
            effects=_frozen(table, EFFECT),
            outputs=_frozen(outputs, np.int32),
            safe=_frozen([driven[index].safe_value for index in outputs], np.float64),
            protective=_frozen(protective, np.bool_),
            watch=_frozen(watch, WATCH),
            machines=_frozen(machines["machines"], MACHINE),
            modes=_frozen(machines["modes"], MODE),
            transitions=_frozen(machines["transitions"], TRANSITION),
            actions=_frozen(machines["actions"], ACTION),
            segments=_frozen(machines["segments"], SEGMENT),
            shown=_frozen([self._read_back(index) for index in outputs], np.int32),
            machine_info=self._machines.info(self._points),
            depth=self._depth,
        )

    def _read_back(self, index: int) -> int:
        """The row of the point table that shows an output; 0 = none."""
        return self._site.points[index - 1].read_back

    def _info(self, row: Row) -> RuleInfo:
        assert row.term is not None
        point = None if row.kind == "guard" else self._points.get(_tag(row))
        bypass = row.rule.BypassMax if isinstance(row.rule, ControlRule) else 0.0
        suppress = -1 if row.guard is None or row.kind != "alarm" else row.guard.index
        return RuleInfo(
            name=row.name,
            kind=layout.KIND_NAMES[row.rule_kind],
            levels=row.levels,
            text=show(row.term),
            point=point.index if point is not None else 0,
            inputs=tuple(sorted(row.inputs)),
            priority=getattr(row.rule, "Priority", ""),
            latch=row.latch,
            term=row.term,
            spans=self._spans[row],
            suppress=suppress,
            bypass_ns_max=round(bypass * 1e9) if row.rule_kind in _KIND_RANKS else 0,
            permits=row.permits,
        )


def _severity(rule: str) -> Severity:
    """Of what the emitter reports."""
    return "warning" if rule == "rate-window-short" else "error"


def _tag(row: Row) -> str:
    """The tag of the point that shows a row."""
    return row.name if row.kind == "value" else rule_tag(row.kind, row.name)


def _by_equipment(tags: Iterable[str]) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for tag in tags:
        found[tag.partition(".")[0]].append(tag)
    return found


def _needs_truth(row: Row) -> bool:
    """True where a level that the code names would have no meaning."""
    if isinstance(row.rule, ControlRule):
        return row.rule.Kind == "Permissive" or row.rule.Effects is not None
    return row.kind == "guard"


def _function_words(rule: np.void, row: Row, numbers: Mapping[int, int]) -> None:
    """Fill in what a grid function has beside other rules."""
    function = row.function
    if function is None or row.output is None:
        return
    rule["bad_value"] = grid.bad_value(function)
    rule["output"] = numbers[row.output.index]
    rule["role"] = layout.ROLE_NAMES.index(grid.role(function))
    rule["enable"] = -1 if row.guard is None else row.guard.index


def _frozen(values: object, dtype: DTypeLike) -> NDArray:
    array = np.ascontiguousarray(np.array(values, dtype=dtype))
    array.setflags(write=False)
    return array
