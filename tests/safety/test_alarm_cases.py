"""Every life in tests/cases/alarms, and that together they make every transition of the table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from safety import alarm_states, reference
from safety.alarm_records import AlarmRefused, Moment, Note
from safety.alarm_states import Transition
from safety.alarms import AlarmTable
from tests.safety.sites import Plant, S, case_site

CASES = Path(__file__).parents[1] / "cases" / "alarms"
LIVES = sorted(path.stem for path in CASES.glob("*.csv"))
UTC_NS = 1_800_000_000 * S
INPUTS = ("Temperature", "Standby")
OPERATOR = {
    "acknowledge": alarm_states.ACKNOWLEDGES,
    "shelve": alarm_states.SHELVES,
    "unshelve": alarm_states.UNSHELVES,
    "out of service": alarm_states.REMOVES,
    "in service": alarm_states.RETURNS,
}


class Life:
    """One alarm of rules.json, scan by scan."""

    def __init__(self, name: str) -> None:
        self.site = case_site(CASES)
        self.plant = Plant(self.site, reference.evaluate)
        self.table = self._new_table()
        self.alarm = [info.name for info in self.table.infos].index(name)
        self.t_s = 0

    def _new_table(self) -> AlarmTable:
        return AlarmTable(self.plant.program, self.site.personality.alarms)

    @property
    def now(self) -> Moment:
        return Moment(self.plant.now_ns, UTC_NS + self.t_s * S)

    def row(self, cells: dict[str, str]) -> dict[str, str]:
        """Let one row of a file happen; what it says of the alarm."""
        step_s = int(cells["t_s"]) - self.t_s
        self.plant.now_ns += step_s * S
        self.t_s += step_s
        happened = self._operate(cells["operator"]) if cells["operator"] else []
        for name in INPUTS:
            if cells[name]:
                self.plant.set(f"Oven.{name}", float(cells[name]))
        plant = self.plant
        changed = plant.engine.scan(plant.rows, plant.now_ns, cells["Reset"] == "1")
        events = self.table.scan(changed, plant.engine.state, self.now)
        happened += [event for event in events if event.alarm == self.alarm]
        info = self.table.infos[self.alarm]
        return {
            "what": " + ".join(event.what if event else "refused" for event in happened),
            info.name: self.table.event(self.alarm).state,
            "called": "yes" if any(event and event.announced for event in happened) else "",
            "heater off": "yes" if plant.demand("Oven.Heater")[2] else "",
        }

    def _operate(self, text: str) -> list[Any]:
        if text == "restart":
            self._restart()
            return []
        action, _, duration = text.partition(" for ")
        seconds = int(duration.removesuffix(" s")) if duration else 0
        note = Note("shift", "a test", self.now.utc_ns)
        try:
            what = OPERATOR[action]
            return [self.table.act(self.alarm, what, self.now, note, seconds * S)]
        except AlarmRefused:
            return [None]

    def _restart(self) -> None:
        latched, kept = self.plant.engine.retained(), self.table.kept(self.now)
        before = self.plant
        self.plant = Plant(self.site, reference.evaluate)
        self.plant.now_ns = before.now_ns
        self.plant.rows[:] = before.rows
        self.plant.engine.restore(latched)
        self.table = self._new_table()
        self.table.restore(kept, self.plant.engine.state, self.now)


def rows_of(life: str) -> list[dict[str, str]]:
    with (CASES / f"{life}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def alarm_of(row: dict[str, str]) -> str:
    (name,) = {"Hot", "Fire"} & set(row)
    return name


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> set[Transition]:
    """The rows of the state table that were used."""
    used: set[Transition] = set()
    look_up = alarm_states.transition

    def noting(state: int, event: str, situation: str) -> Transition | None:
        row = look_up(state, event, situation)
        if row is not None:
            used.add(row)
        return row

    monkeypatch.setattr(alarm_states, "transition", noting)
    return used


@pytest.mark.parametrize("name", LIVES)
def test_the_life_goes_as_the_file_says(name: str) -> None:
    rows = rows_of(name)
    life = Life(alarm_of(rows[0]))
    for cells in rows:
        got = life.row(cells)
        wanted = {column: cells.get(column, got[column]) for column in got}
        assert got == wanted, f"{name} at {cells['t_s']} s"


def test_every_row_of_the_state_table_is_in_a_life(taken: set[Transition]) -> None:
    for name in LIVES:
        rows = rows_of(name)
        life = Life(alarm_of(rows[0]))
        for cells in rows:
            life.row(cells)
    missing = [
        f"{alarm_states.STATES[row.origin]}: {row.event} {row.when}"
        for row in alarm_states.TABLE
        if row not in taken
    ]
    assert not missing, "\n".join(missing)
