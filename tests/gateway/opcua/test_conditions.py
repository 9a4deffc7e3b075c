"""Conditions against the field's alarm table: states, refresh, restarts, configurations."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua

from config import status
from config.model import AlarmRule
from gateway.core.records import Event
from gateway.opcua.conditions.events import event_id, event_of
from gateway.opcua.conditions.states import FLAGS
from gateway.opcua.names import own_id, standard_id
from safety import alarm_states
from safety.alarm_records import AlarmEvent
from safety.alarms import AlarmTable
from tests.gateway.opcua.conditions_case import EPOCH, NOW_NS, RULES, Stand, body, row
from tests.safety.test_alarm_cases import LIVES, alarm_of, rows_of
from tests.safety.test_alarm_cases import Life as FieldLife

I = ua.ObjectIds  # noqa: E741
SERVER = standard_id(I.Server)
# What docs/opcua/alarms.md says of each state; active None: as the rule is.
SHOWN = {
    "normal": (False, True, False, "Unshelved"),
    "unacknowledged": (True, False, True, "Unshelved"),
    "acknowledged": (True, True, True, "Unshelved"),
    "returned unacknowledged": (False, False, True, "Unshelved"),
    "latched unacknowledged": (False, False, True, "Unshelved"),
    "latched acknowledged": (False, True, True, "Unshelved"),
    "shelved": (None, True, True, "TimedShelved"),
    "suppressed by design": (None, True, None, "Unshelved"),
    "out of service": (None, True, True, "Unshelved"),
}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def built() -> Stand:
    return Stand()


@pytest_asyncio.fixture(loop_scope="module")
async def stand(built: Stand) -> Stand:
    """All alarms normal, nothing told yet."""
    built.desk.ready = True
    built.desk.rows = [row(tag, "normal") for tag in RULES]
    built.show({})
    built.show(RULES)
    await built.settle()
    built.told.clear()
    return built


class HeardTable(AlarmTable):
    """An alarm table whose events are kept."""

    heard: list[AlarmEvent]

    def scan(self, *given: Any) -> list[AlarmEvent]:
        events = super().scan(*given)
        self.heard += events
        return events

    def act(self, *given: Any) -> AlarmEvent:
        event = super().act(*given)
        self.heard.append(event)
        return event


class HeardLife(FieldLife):
    """A life with all events that its field process would journal."""

    def _new_table(self) -> HeardTable:
        self.heard: list[AlarmEvent] = []
        table = HeardTable(self.plant.program, self.site.personality.alarms)
        table.heard = self.heard
        return table


def body_of(table: AlarmTable, event: Any) -> dict[str, Any]:
    """As gateway/alarms.py journals it."""
    told = event._asdict()
    del told["alarm"]
    info = table.infos[event.alarm]
    return {**told, "name": info.name, "priority": info.priority}


def row_of(life: FieldLife, tag: str) -> dict[str, Any]:
    """As gateway/alarms.py answers."""
    table, alarm = life.table, life.alarm
    event, note = table.event(alarm), table.note(alarm)
    return {
        "tag": tag,
        "state": event.state,
        "level": event.level,
        "active": event.active,
        "latched": event.latched,
        "quality": event.quality,
        "since_utc_ns": int(table.since_utc_ns[alarm]),
        "shelved_until_utc_ns": table.shelved_until_utc_ns(alarm, life.now),
        "by": note.by if note else "",
        "comment": note.comment if note else "",
    }


# -- one truth with the alarm table ----------------------------------------------------------


async def test_every_state_is_in_the_table() -> None:
    assert set(SHOWN) == set(FLAGS) == set(alarm_states.STATES)


@pytest.mark.parametrize("name", LIVES)
async def test_a_life_of_the_field_is_the_life_of_the_condition(name: str, built: Stand) -> None:
    """All transitions of docs/alarms.md, heard as events and read as rows."""
    rows = rows_of(name)
    life = HeardLife(alarm_of(rows[0]))
    channel = alarm_of(rows[0])
    tag = f"Alarms.{channel}"
    (info,) = (i for i in life.table.infos if i.name == life.table.infos[life.alarm].name)
    rule = life.site.personality.alarms[info.name]
    built.desk.rows = [row_of(life, tag)]
    built.show({})
    built.show({tag: rule})
    await built.settle()
    for cells in rows:
        life.heard.clear()
        life.row(cells)
        built.desk.rows = [row_of(life, tag)]
        if cells["operator"] == "restart":
            built.conditions.field_lost()
            built.conditions.field_there()
        else:
            mine = [event for event in life.heard if event.alarm == life.alarm]
            built.hear(*(body_of(life.table, event) for event in mine))
        await built.settle()
        told = life.table.event(life.alarm)
        fields = built.fields(tag)
        active, acked, retain, shelving = SHOWN[told.state]
        assert fields["ActiveState/Id"] == (told.active if active is None else active)
        assert fields["AckedState/Id"] == acked
        assert fields["Retain"] == (told.active if retain is None else retain)
        assert fields["ShelvingState/CurrentState"].Text == shelving
        assert fields["SuppressedState/Id"] == (told.state == "suppressed by design")
        assert fields["OutOfServiceState/Id"] == (told.state == "out of service")
        aside = told.state in ("shelved", "suppressed by design", "out of service")
        assert fields["SuppressedOrShelved"] == aside
        if rule.Latch:
            assert fields["LatchedState/Id"] == told.latched


# -- what an event has -----------------------------------------------------------------------


async def test_an_alarm_that_comes_is_told_with_all_fields(stand: Stand) -> None:
    stand.hear(body("unacknowledged"))
    await stand.settle()
    (event,) = stand.told
    assert event.type_id == standard_id(I.ExclusiveLevelAlarmType)
    assert event.event_id == event_id(EPOCH, stand.seq)
    assert event.source == own_id("Oven.Temperature")
    assert event.notifiers == (SERVER, own_id("/"), own_id("/Oven"))
    assert event.condition == own_id("Alarms.Hot/Condition")
    assert event.severity == 700
    assert event.message == (
        "High: The oven is too hot; cause: a door that stands open; action: look at the door"
    )
    fields = stand.fields("Alarms.Hot")
    assert fields["HighLimit"] == 900.0
    assert fields["LimitState/CurrentState"].Text == "High"
    assert fields["LimitState/CurrentState/Id"].Identifier == I.ExclusiveLimitStateMachineType_High
    assert fields["MaxTimeShelved"] == 3_600_000.0
    assert fields["InputNode"] == own_id("Oven.Temperature")
    assert fields["ConditionName"] == "Hot"
    assert fields["Quality"].value == status.GOOD
    assert fields["BranchId"].is_null()


async def test_who_did_it_stays_as_long_as_the_state(stand: Stand) -> None:
    stand.hear(
        body("unacknowledged"),
        body("acknowledged", "acknowledged", by="ann", comment="seen"),
        body("acknowledged", "latched", latched=True),
    )
    await stand.settle()
    assert stand.fields("Alarms.Hot")["ClientUserId"] == "ann"
    assert stand.fields("Alarms.Hot")["Comment"].Text == "seen"
    stand.hear(body("normal", "cleared"))
    await stand.settle()
    assert not stand.fields("Alarms.Hot")["ClientUserId"]


async def test_since_when_an_alarm_is_active_and_acknowledged(stand: Stand) -> None:
    def times() -> list[Any]:
        fields = stand.fields("Alarms.Hot")
        return [fields["ActiveState/TransitionTime"], fields["AckedState/TransitionTime"]]

    assert times() == [None, None]
    stand.hear(body("unacknowledged"))
    await stand.settle()
    came = stand.fields("Alarms.Hot")["Time"]
    assert times() == [came, came]
    stand.hear(body("acknowledged", "acknowledged"))
    await stand.settle()
    assert times() == [came, stand.fields("Alarms.Hot")["Time"]]


async def test_a_held_alarm_has_a_bad_quality(stand: Stand) -> None:
    stand.hear(body("acknowledged", quality="bad"))
    await stand.settle()
    assert stand.fields("Alarms.Hot")["Quality"].value == status.BAD


async def test_the_archive_tells_the_same_event(stand: Stand) -> None:
    told = body("shelved", "shelved", by="ann", comment="why", until_utc_ns=NOW_NS + 10**10)
    stand.hear(told)
    await stand.settle()
    (live,) = stand.told
    again = event_of(
        Event(stand.seq, NOW_NS + stand.seq, "alarm", told), EPOCH, stand.conditions.facts
    )
    assert again is not None
    assert again.event_id == live.event_id
    different = {path for path, value in live.values().items() if again.values()[path] != value}
    # When a state changed last is not told by the one event.
    assert different <= {"ReceiveTime", "ActiveState/TransitionTime", "AckedState/TransitionTime"}


@pytest.mark.parametrize(
    ("kind", "told", "type_id", "source", "message"),
    [
        (
            "trip",
            {"name": "Control/Over", "active": True, "kind": "trip", "first_out": 1},
            I.BaseEventType,
            "Controls.Over",
            "trip Control/Over active; first-out number 1",
        ),
        (
            "device",
            {"device": "Oven", "up": False, "reason": "timeout"},
            I.DeviceFailureEventType,
            "/Oven",
            "device Oven is lost: timeout",
        ),
        (
            "device",
            {"device": "Oven", "up": True, "reason": ""},
            I.SystemEventType,
            "/Oven",
            "device Oven is back",
        ),
        (
            "bypass",
            {"name": "Control/Over", "what": "begin", "source": "ann", "comment": "test"},
            I.BaseEventType,
            "Controls.Over",
            "bypass of Control/Over: begin, by ann; test",
        ),
        (
            "state",
            {"machine": "Run", "state": "Hot", "before": "Cold", "by": "operator"},
            I.TransitionEventType,
            "States.Run/StateMachine",
            "Run: Cold to Hot, by operator",
        ),
        (
            "gateway",
            {"what": "retain file not written", "reason": "disk full"},
            I.SystemEventType,
            "i=2253",
            "gateway: retain file not written; reason disk full",
        ),
        (
            "gateway",
            {"what": "Broker_Connected", "value": 0.0, "reason": "refused"},
            I.SystemEventType,
            "i=2253",
            "gateway: Broker_Connected = 0; reason refused",
        ),
    ],
)
async def test_other_events_of_the_journal(
    stand: Stand, kind: str, told: dict[str, Any], type_id: int, source: str, message: str
) -> None:
    stand.hear(told, kind=kind)
    await stand.settle()
    (event,) = stand.told
    assert event.type_id == standard_id(type_id)
    assert event.source == (SERVER if source == "i=2253" else own_id(source))
    assert event.message == message
    assert SERVER in event.notifiers


async def test_an_alarm_that_the_site_no_longer_has_is_a_plain_event(stand: Stand) -> None:
    stand.hear(body("unacknowledged", name="Alarms/Gone"))
    await stand.settle()
    assert stand.told[0].type_id == standard_id(I.BaseEventType)
    assert stand.told[0].condition is None


async def test_receipts_are_no_events(stand: Stand) -> None:
    stand.hear({"command": "1", "step": "verified"}, kind="receipt")
    await stand.settle()
    assert stand.told == []


# -- restarts and losses ---------------------------------------------------------------------


async def test_the_table_of_the_field_is_read_at_birth(stand: Stand) -> None:
    stand.desk.rows = [row(tag, "normal") for tag in RULES]
    stand.desk.rows[-1] = row("Alarms.Both", "shelved", shelved_until_utc_ns=NOW_NS + 10**9)
    stand.show({})
    stand.show(RULES)
    await stand.settle()
    assert [e.condition for e in stand.told if e.condition] == [own_id("Alarms.Both/Condition")]
    (kept,) = stand.conditions.retained()
    assert kept.values()["ShelvingState/CurrentState"].Value.Text == "TimedShelved"
    assert kept.utc_ns == NOW_NS


async def test_a_field_that_is_lost_makes_the_quality_bad_until_it_is_back(stand: Stand) -> None:
    stand.hear(body("acknowledged"))
    await stand.settle()
    before = stand.told[-1].event_id
    stand.conditions.field_lost()
    await stand.settle()
    (lost,) = stand.told[1:]
    assert lost.values()["Quality"].Value.value == status.BAD_NO_COMMUNICATION
    assert lost.event_id != before
    stand.desk.rows = [row("Alarms.Hot", "acknowledged")]
    stand.conditions.field_there()
    await stand.settle()
    assert stand.told[-1].values()["Quality"].Value.value == status.GOOD
    assert stand.told[-1].values()["AckedState/Id"].Value is True


async def test_what_was_normal_before_and_behind_a_loss_is_not_told(stand: Stand) -> None:
    stand.hear(body("acknowledged"))
    await stand.settle()
    stand.conditions.field_lost()
    await stand.settle()
    stand.told.clear()
    stand.desk.rows = [row(tag, "normal", announced_utc_ns=NOW_NS) for tag in RULES]
    stand.conditions.field_there()
    await stand.settle()
    (gone,) = stand.told  # retained when it was told last
    assert gone.values()["Retain"].Value is False
    assert gone.condition == own_id("Alarms.Hot/Condition")


async def test_what_was_announced_unheard_needs_the_id_of_its_own_event(stand: Stand) -> None:
    """It went and came back in a gap: its state is the same, and yet nobody saw it."""
    stand.hear(body("unacknowledged"))
    await stand.settle()
    condition = stand.conditions.condition(own_id("Alarms.Hot/Condition"))
    assert condition is not None
    before, announced_ns = condition.event_id, condition.announced_ns
    stand.desk.rows = [row("Alarms.Hot", "unacknowledged", announced_utc_ns=announced_ns)]
    stand.hear(gap="journal overflow")
    await stand.settle()
    assert condition.names(before)
    stand.desk.rows[0]["announced_utc_ns"] = announced_ns + 5
    stand.hear(gap="journal overflow")
    await stand.settle()
    assert not condition.names(before)
    assert stand.told[-2].event_id == condition.event_id
    assert condition.announced_ns == announced_ns + 5


async def test_an_alarm_that_went_unheard_is_told(stand: Stand) -> None:
    stand.hear(body("unacknowledged"))
    await stand.settle()
    stand.desk.rows = [row("Alarms.Hot", "normal")]
    stand.hear(gap="journal overflow")
    await stand.settle()
    gone, required = stand.told[1:]
    assert gone.values()["Retain"].Value is False
    assert required.type_id == standard_id(I.RefreshRequiredEventType)


async def test_the_table_is_asked_for_until_somebody_answers(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.opcua.conditions.conditions.ASK_AGAIN_S", 0.01)
    stand.desk.ready = False
    asked = stand.desk.asked
    stand.conditions.field_there()
    task = asyncio.create_task(stand.conditions.run())
    while stand.desk.asked == asked:
        await asyncio.sleep(0)
    stand.hear(body("unacknowledged"))  # what is heard meanwhile is told
    while not stand.told:
        await asyncio.sleep(0)
    stand.desk.ready = True
    stand.desk.rows = [row("Alarms.Hot", "acknowledged")]
    while stand.fields("Alarms.Hot")["AckedState/Id"] is not True:
        await asyncio.sleep(0)
    task.cancel()


async def test_conditions_follow_the_configuration(stand: Stand) -> None:
    stand.hear(body("unacknowledged"))
    await stand.settle()
    stand.desk.rows = [row("Alarms.Hot", "unacknowledged")]
    stand.show({"Alarms.Hot": RULES["Alarms.Hot"], "Alarms.New": AlarmRule(When="Oven.Door")})
    gone, hot, new = (own_id(f"Alarms.{n}/Condition") for n in ("Door", "Hot", "New"))
    assert stand.conditions.condition(gone) is None
    assert gone not in stand.aspace
    assert own_id("Alarms.Door/Condition/AckedState") not in stand.aspace
    assert stand.conditions.condition(new) is not None
    assert own_id("Alarms.New/Condition/AckedState/Id") in stand.aspace
    assert stand.fields("Alarms.Hot")["AckedState/Id"] is False
    await stand.settle()
    assert stand.told[-1].type_id == standard_id(I.RefreshRequiredEventType)
    assert hot in stand.aspace


# -- floods ----------------------------------------------------------------------------------


async def test_a_flood_lets_others_of_the_loop_work(stand: Stand) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    flood = [body("unacknowledged"), body("returned unacknowledged", "cleared")] * 2_500
    stand.hear(*flood)
    task = asyncio.create_task(other())
    await stand.settle()
    task.cancel()
    assert len(stand.told) == len(flood)
    assert turns > 10


async def test_what_finds_no_room_is_read_from_the_table(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.opcua.conditions.conditions.WAITING_MAX", 10)
    stand.desk.rows = [row("Alarms.Hot", "acknowledged")]
    stand.hear(*[body("unacknowledged")] * 30)
    await stand.settle()
    assert len(stand.told) == 12
    assert stand.fields("Alarms.Hot")["AckedState/Id"] is True
    assert stand.told[-1].type_id == standard_id(I.RefreshRequiredEventType)
