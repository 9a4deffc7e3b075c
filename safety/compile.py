"""From a site's rules to one program of numbers, and everything that is wrong with them.

`gateway check` prints the findings; the field process runs the program.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from config.findings import Finding
from config.points import PointDef, rule_tag
from config.site import Site
from safety import layout
from safety.effects import Drive, Methods, nearest
from safety.emit import Emitter, Piece, Target
from safety.layout import EFFECT, RULE, Program, RuleInfo
from safety.rows import SECTIONS, Row, RuleKey, Rules, collect, data_key, is_estop, read
from safety.terms import Point, Ref, Term, show

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


class _Compiler:
    """One compilation; the `Scope` of its emitters."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._points: dict[str, PointDef] = {point.tag: point for point in site.points}
        self.findings: list[Finding] = []
        rows = collect(site.personality, site.instruments.values())
        tags: dict[str, RuleKey] = {_tag(row): (row.kind, row.name) for row in rows}
        self._rules = Rules(rows, tags)
        self._texts: dict[str, int] = {"": 0}
        self._consts: dict[str, int] = {}
        self._const_values: list[float] = []
        self._slots = 0
        self._code: list[int] = []
        self._depth = 1
        self._row: Row | None = None  # the one that is being emitted
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
        spans = [self._emit(row) for row in rows]
        methods = Methods(self._site)
        self._blocking(methods.findings)
        methods.findings = []
        effects = methods.effects(rows, self.text_id)
        self._blocking(methods.findings)
        methods.findings = []
        methods.check_outputs(effects)
        self.findings += methods.findings
        self._check_estop(rows)
        return self._assemble(rows, spans, effects) if self._complete else None

    def _blocking(self, findings: list[Finding]) -> None:
        """Findings of which the errors leave the program incomplete."""
        self.findings += findings
        if any(finding.severity == "error" for finding in findings):
            self._complete = False

    # ------------------------------------------------------------ one rule

    def _emit(self, row: Row) -> tuple[int, int, int]:
        """Append a row's code; returns its start, its stop and the level of a true condition."""
        start = len(self._code)
        self._row = row
        self._check_delays(row)
        if row.term is None:
            return start, start, 0
        piece = Emitter(self, self._report, row.on_bad).emit(row.term)
        row.inputs |= {index for used in row.uses for index in used.inputs}
        self._code += piece.code
        self._depth = max(self._depth, piece.depth)
        return start, len(self._code), self._result_level(row, piece)

    def _result_level(self, row: Row, piece: Piece) -> int:
        """The string id that a true condition stands for; 0 where the code gives names."""
        if row.kind == "value":
            if piece.kind not in ("number", "boolean", "switch", "any"):
                self._report("rule-type", "The expression gives a name; a point needs a number.")
            return 0
        is_condition = piece.kind in ("boolean", "switch") or row.is_bare_condition
        if piece.kind == "any":
            return 0
        if "" in row.levels:  # the id of the empty name is that of an inactive rule
            self._report("rule-type", "A level can't be an empty name; write null.")
            return 0
        if row.kind == "state" and is_condition:
            self._report("rule-type", "The rule is true or false; a state needs a name as result.")
        elif piece.kind == "number":
            self._report(
                "rule-type", "The rule gives a number; compare it, or return a name with if()."
            )
        elif is_condition and row.true_level is None:
            self._report(
                "rule-no-condition" if not row.levels else "rule-type",
                'The rule is true or false, so it must say which "Method" it calls.',
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
        key = data_key(self._row, term) if term is not None else ""
        finding = self._row.finding(rule, message, key)
        # A level that never comes is an error to mend, but the code of the rule is whole.
        if rule == "level-unreachable":
            self.findings.append(finding)
        else:
            self._blocking([finding])

    # ------------------------------------------------------------ the emitter's scope

    def point(self, tag: str) -> PointDef | Target | None:
        """See safety.emit.Scope."""
        assert self._row is not None
        used = self._rules.of_tag(tag)
        if used is not None and used.kind != "value":
            return self._of_row(used)
        point = self._points.get(tag)
        if point is None or point.source == "rule":
            self._report("reference-undefined", self._undefined(tag), Point(tag))
            return None
        if not point.readable:
            message = (
                f"{tag} can only be written, so its value is never known. Give its channel "
                "ReadWrite RW, or use the channel that shows it."
            )
            self._report("point-not-readable", message, Point(tag))
            return None
        if used is None:
            self._row.inputs |= {point.index}
        return point

    def _undefined(self, tag: str) -> str:
        equipment = tag.partition(".")[0]
        message = f"There is no active point {tag}. "
        instrument = self._site.instruments.get(equipment)
        if instrument is None:
            return message + nearest(equipment, self._site.instruments)
        return message + nearest(tag, {p.tag: p for p in instrument.points.values()})

    def target(self, ref: Ref) -> Target | None:
        """See safety.emit.Scope."""
        used = self._rules.of_ref(ref)
        if used is not None:
            return self._of_row(used)
        names = {row.name: row for row in self._rules.rows if row.kind == ref.kind}
        message = f'There is no active {ref.kind} "{ref.name}" in {SECTIONS[ref.kind]}. '
        self._report("reference-undefined", message + nearest(ref.name, names), ref)
        return Target(0, "name", self._rules.names_of_kind(ref.kind), exists=False)

    def _of_row(self, row: Row) -> Target | None:
        return None if row.term is None else Target(row.index, "name", row.levels)

    def text_id(self, name: str) -> int:
        """See safety.emit.Scope."""
        return self._texts.setdefault(name, len(self._texts)) if name else 0

    def const_id(self, value: float) -> int:
        """See safety.emit.Scope."""
        key = value.hex()
        if key not in self._consts:
            self._consts[key] = len(self._const_values)
            self._const_values.append(value)
        return self._consts[key]

    def new_slot(self) -> int:
        """See safety.emit.Scope."""
        self._slots += 1
        return self._slots - 1

    # ------------------------------------------------------------ the whole

    def _check_estop(self, rows: list[Row]) -> None:
        personality = self._site.personality
        acts = any(row.kind == "control" for row in rows) or any(
            point.is_output for point in self._site.points
        )
        if not acts or any(is_estop(row.name) and row.kind in ("alarm", "control") for row in rows):
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
            shown = self._points[row.name].index if row.kind == "value" else 0
            head = (start, stop, kind, row.on_bad, level_true, first, latch, shown)
            rules[row.index] = (*head, *delays)
        driven = {drive.point.index: drive.point for _, _, drive in effects}
        for point in self._site.points:
            if point.is_output and not np.isnan(point.safe_value):
                driven[point.index] = point
        outputs = sorted(driven)
        numbers = {index: number for number, index in enumerate(outputs)}
        table = np.zeros(len(effects), dtype=EFFECT)
        for at, (row, method, drive) in enumerate(effects):
            rank = _KIND_RANKS[row.rule_kind]
            table[at] = (row.index, method, numbers[drive.point.index], rank, drive.value)
        protective = np.zeros(len(self._site.points) + 1, dtype=np.bool_)
        for row in rows:
            if row.kind == "control":
                protective[list(row.inputs)] = True
        return Program(
            info=tuple(self._info(row) for row in rows),
            strings=tuple(self._texts),
            rules=_frozen(rules, RULE),
            code=_frozen(self._code, np.int32),
            consts=_frozen(self._const_values, np.float64),
            slots=self._slots,
            effects=_frozen(table, EFFECT),
            outputs=_frozen(outputs, np.int32),
            safe=_frozen([driven[index].safe_value for index in outputs], np.float64),
            protective=_frozen(protective, np.bool_),
            depth=self._depth,
        )

    def _info(self, row: Row) -> RuleInfo:
        assert row.term is not None
        point = self._points.get(_tag(row))
        return RuleInfo(
            name=row.name,
            kind=layout.KIND_NAMES[row.rule_kind],
            levels=row.levels,
            text=show(row.term),
            point=point.index if point is not None else 0,
            inputs=tuple(sorted(row.inputs)),
            priority=getattr(row.rule, "Priority", ""),
            latch=row.latch,
        )


def _tag(row: Row) -> str:
    """The tag of the point that shows a row."""
    return row.name if row.kind == "value" else rule_tag(row.kind, row.name)


def _frozen(values: object, dtype: DTypeLike) -> NDArray:
    array = np.ascontiguousarray(np.array(values, dtype=dtype))
    array.setflags(write=False)
    return array
