"""What the address space shows of a site, and what becomes of it in another configuration."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.server.address_space import AddressSpace, NodeData

from config import status
from gateway.opcua.model import SiteModel
from gateway.opcua.names import di_id, member_id, own_id, standard_id
from gateway.opcua.nodes import changes, di
from gateway.opcua.nodes.builder import Nodes
from gateway.opcua.nodes.devices import health_of
from gateway.opcua.nodes.di import Health
from gateway.opcua.nodes.space import Space
from tests.gateway.opcua.nodes_case import (
    DEVICES,
    MODEL,
    NOW_NS,
    RULES,
    SITE,
    attribute,
    browse_name,
    gateway_points,
    made_space,
    points_of,
    put,
    show,
    standard_copy,
    targets,
)
from tests.gateway.opcua_case import lost

IDS = ua.ObjectIds
ATTRIBUTES = ua.AttributeIds
MACHINE = member_id("States.Plant", "StateMachine")


@pytest.fixture(scope="module")
def space() -> Space:
    return made_space()


def value(space: Space, node: ua.NodeId) -> Any:
    return attribute(space, node, ATTRIBUTES.Value)


def kind(space: Space, node: ua.NodeId) -> int:
    return int(targets(space, node, IDS.HasTypeDefinition)[0].Identifier)


# -- points --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "number", "names"),
    [
        ("Stack.Temperature", IDS.AnalogUnitRangeType, {"EngineeringUnits", "EURange"}),
        ("Stack.Voltage", IDS.AnalogUnitType, {"EngineeringUnits", "ValuePrecision"}),
        ("Stack.Power", IDS.AnalogUnitType, {"EngineeringUnits", "Definition"}),
        ("Stack.Hours", IDS.BaseDataVariableType, set()),
        ("Fan.Running", IDS.TwoStateDiscreteType, {"FalseState", "TrueState"}),
        ("Fan.Mode", IDS.MultiStateDiscreteType, {"EnumStrings"}),
        ("Fan.Ratio", IDS.BaseAnalogType, set()),
        ("Alarms.Hot", IDS.MultiStateDiscreteType, {"EnumStrings"}),
    ],
)
def test_a_point_has_the_type_and_properties_that_are_known(
    space: Space, tag: str, number: int, names: set[str]
) -> None:
    node = own_id(tag)
    assert kind(space, node) == number
    found = {browse_name(space, one)[1] for one in targets(space, node, IDS.HasProperty)}
    assert found == names


def test_units_ranges_and_names_are_those_of_the_site(space: Space) -> None:
    unit = value(space, own_id("Stack.Temperature/EngineeringUnits"))
    assert (unit.UnitId, unit.DisplayName.Text) == (4_408_652, "°C")
    span = value(space, own_id("Stack.Temperature/EURange"))
    assert (span.Low, span.High) == (0.0, 900.0)
    assert value(space, own_id("Stack.Voltage/ValuePrecision")) == 2.0
    assert value(space, own_id("Stack.Power/Definition")) == "Stack.Voltage * Stack.Current_Set"
    names = [text.Text for text in value(space, own_id("Alarms.Hot/EnumStrings"))]
    assert names == ["inactive", "HIGH", "TRIP"]


def test_access_says_what_can_be_written_and_read_back(space: Space) -> None:
    assert attribute(space, own_id("Stack.Voltage"), ATTRIBUTES.AccessLevel) == 1 | 4
    assert attribute(space, own_id("Stack.Current_Set"), ATTRIBUTES.AccessLevel) == 1 | 2 | 4
    assert attribute(space, own_id("Stack.Voltage"), ATTRIBUTES.Historizing) is True
    meaning = own_id("Stack.Voltage/EngineeringUnits")
    assert attribute(space, meaning, ATTRIBUTES.AccessLevel) == 1 | 16  # SemanticChange
    assert attribute(space, own_id("/"), ATTRIBUTES.EventNotifier) == 1 | 4
    assert attribute(space, standard_id(IDS.Server), ATTRIBUTES.EventNotifier) == 1 | 4
    without = made_space(history=False)
    assert attribute(without, own_id("Stack.Voltage"), ATTRIBUTES.AccessLevel) == 1
    assert attribute(without, own_id("Stack.Voltage"), ATTRIBUTES.Historizing) is False
    assert attribute(without, own_id("/"), ATTRIBUTES.EventNotifier) == 1


def test_point_and_tag_of_a_node(space: Space) -> None:
    assert space.point_of(own_id("Stack.Voltage")) == 2
    assert space.point_of(own_id("/Stack")) == 0
    assert space.point_of(di_id(5001)) == space.point_of(standard_id(2253)) == 0
    assert space.tag_of(own_id("Stack.Voltage")) == "Stack.Voltage"
    assert space.tag_of(own_id("Stack.Voltage/EngineeringUnits")) == "Stack.Voltage"
    assert space.tag_of(member_id("States.Plant", "StateMachine", "CurrentState")) == "States.Plant"
    assert space.tag_of(own_id("/Stack/DeviceHealth")) == ""
    assert space.tag_of(standard_id(2258)) == ""


# -- equipment and devices ------------------------------------------------------------------------


def test_equipment_stands_in_folders_of_its_place_and_kind_too(space: Space) -> None:
    site = {browse_name(space, one) for one in targets(space, own_id("/"), IDS.HasComponent)}
    assert site == {
        (2, name) for name in ("Stack", "Fan", "Gateway", "Alarms", "Controls", "States")
    }
    place = own_id("//Locations/Hall 1/North")
    assert targets(space, place, IDS.Organizes) == [own_id("/Stack"), own_id("/Fan")]
    assert targets(space, own_id("//Types/Fan"), IDS.Organizes) == [own_id("/Fan")]


def test_each_instrument_and_the_gateway_is_a_device(space: Space) -> None:
    devices = targets(space, di.DEVICE_SET, IDS.Organizes)
    assert devices == [own_id("/Stack"), own_id("/Fan"), own_id("/Gateway")]
    assert targets(space, own_id("/Stack"), IDS.HasTypeDefinition) == [di.INSTRUMENT_TYPE]
    assert value(space, own_id("/Stack/Manufacturer")).Text == "Enapter"
    assert value(space, own_id("/Stack/Model")).Text == "EL 2.1"
    assert value(space, own_id("/Stack/DeviceManual")) == "Enapter Handbook"
    assert value(space, own_id("/Fan/DeviceManual")) == "drawing 7"
    assert value(space, own_id("/Fan/SerialNumber")) == ""
    assert value(space, own_id("/Fan/RevisionCounter")) == -1
    assert browse_name(space, own_id("/Fan/RevisionCounter")) == (3, "RevisionCounter")
    assert value(space, own_id("/Gateway/SoftwareRevision"))


def test_the_gateways_points_are_grouped_by_what_they_tell_of(space: Space) -> None:
    root = own_id("/Gateway/Diagnostics")
    groups = [browse_name(space, one)[1] for one in targets(space, root, IDS.Organizes)]
    assert groups == ["Scan", "Link", "Store", "Alarms", "Schedule"]
    link = targets(space, own_id("/Gateway/Diagnostics/Link"), IDS.Organizes)
    assert link == [own_id("Gateway.Link_Connected"), own_id("Gateway.Broker_Connected")]


@pytest.mark.parametrize(
    ("given", "health"),
    [
        ([status.GOOD, status.GOOD], Health.NORMAL),
        ([status.GOOD, status.BAD_CONFIGURATION_ERROR], Health.NORMAL),
        ([status.BAD_NO_COMMUNICATION] * 2, Health.FAILURE),
        ([status.GOOD, status.BAD_DEVICE_FAILURE], Health.FAILURE),
        ([status.GOOD, status.BAD_SENSOR_FAILURE], Health.OFF_SPEC),
        ([status.GOOD, status.UNCERTAIN_NO_COMMUNICATION], Health.OFF_SPEC),
        ([status.GOOD, status.GOOD_LOCAL_OVERRIDE], Health.CHECK_FUNCTION),
        ([status.BAD_WAITING_FOR_INITIAL_DATA] * 2, None),
        ([], None),
    ],
)
def test_health_follows_the_status_of_the_points(given: list[int], health: Any) -> None:
    assert health_of(np.array(given, dtype=np.uint32)) == health


def test_health_of_devices_and_service_level_when_the_field_is_away() -> None:
    space = made_space()
    ask: Any = space.aspace[own_id("/Fan/DeviceHealth")].attributes[ATTRIBUTES.Value]
    for tag in ("Fan.Running", "Fan.Mode", "Fan.Ratio"):
        put(space, tag, 1.0)
    assert ask.value_callback(None, None).Value.Value == Health.NORMAL
    put(space, "Fan.Mode", 1.0, status.BAD_TIMEOUT)
    assert ask.value_callback(None, None).Value.Value == Health.OFF_SPEC
    assert space.diagnostics.service_level == 255
    space.values.update(lost(len(space.values.points), NOW_NS))
    shown = ask.value_callback(None, None)
    assert (shown.Value, shown.StatusCode.value) == (None, status.BAD_NO_COMMUNICATION)
    assert space.diagnostics.service_level == 1
    gateway: Any = space.aspace[own_id("/Gateway/DeviceHealth")].attributes[ATTRIBUTES.Value]
    assert gateway.value_callback(None, None).Value.Value == Health.FAILURE


def test_a_device_that_nothing_is_read_from_has_no_health() -> None:
    given = [*DEVICES, {"tag": "Valve.Open", "writable": True, "readable": False}]
    space = made_space(MODEL, points_of(*given))
    assert own_id("/Valve/SerialNumber") in space.aspace
    assert own_id("/Valve/DeviceHealth") not in space.aspace


# -- state machines -------------------------------------------------------------------------------


def shown(space: Space, *path: str) -> ua.DataValue:
    node = member_id("States.Plant", "StateMachine", *path)
    held = space.aspace[node].attributes[ATTRIBUTES.Value]
    assert held.value_callback is not None
    return held.value_callback(node, ATTRIBUTES.Value)


def test_a_machine_shows_its_state_and_its_last_transition() -> None:
    space = made_space()
    state = shown(space, "CurrentState")
    assert (state.Value, state.StatusCode.value) == (None, status.BAD_WAITING_FOR_INITIAL_DATA)
    put(space, "States.Plant", 1.0)
    assert shown(space, "CurrentState").Value.Value.Text == "Off"
    off = member_id("States.Plant", "StateMachineType", "Off")
    assert shown(space, "CurrentState", "Id").Value.Value == off
    assert shown(space, "CurrentState", "Number").Value.Value == 1
    assert shown(space, "LastTransition").Value is None
    put(space, "States.Plant", 2.0, utc_ns=NOW_NS + 5_000_000_000)
    way = shown(space, "LastTransition", "Id").Value.Value
    assert way == member_id("States.Plant", "StateMachineType", "OffToHeatUp")
    assert shown(space, "LastTransition").Value.Value.Text == "OffToHeatUp"
    assert shown(space, "LastTransition", "TransitionTime").Value.Value.second == 25
    assert value(space, ua.NodeId(f"{way.Identifier}/TransitionNumber", 2)) == 1002
    assert shown(space, "LastTransition", "Number").Value.Value == 1002
    put(space, "States.Plant", 2.0, status.BAD_NO_COMMUNICATION)
    lost = shown(space, "CurrentState")
    assert (lost.Value, lost.StatusCode.value) == (None, status.BAD_NO_COMMUNICATION)


def test_a_machines_type_has_its_states_and_transitions(space: Space) -> None:
    root = member_id("States.Plant", "StateMachineType")
    assert targets(space, MACHINE, IDS.HasTypeDefinition) == [root]
    assert targets(space, root, IDS.HasSubtype, forward=False) == [
        standard_id(IDS.FiniteStateMachineType)
    ]
    parts: dict[str, int] = {
        browse_name(space, one)[1]: kind(space, one)
        for one in targets(space, root, IDS.HasComponent)
    }
    assert parts == {
        "Off": IDS.InitialStateType,
        "HeatUp": IDS.StateType,
        "Running": IDS.StateType,
        "OffToHeatUp": IDS.TransitionType,
        "HeatUpToRunning": IDS.TransitionType,
        "HeatUpToOff": IDS.TransitionType,
        "RunningToOff": IDS.TransitionType,
    }
    way = member_id("States.Plant", "StateMachineType", "HeatUpToRunning")
    state = member_id("States.Plant", "StateMachineType", "HeatUp")
    assert targets(space, way, IDS.FromState) == [state]
    available = value(space, member_id("States.Plant", "StateMachine", "AvailableTransitions"))
    assert len(available) == 4
    assert all(one in space.aspace for one in available)


def test_a_machine_keeps_its_last_transition_in_another_configuration() -> None:
    space = made_space()
    put(space, "States.Plant", 1.0)
    put(space, "States.Plant", 2.0)
    show(space, MODEL, points_of(*RULES, *DEVICES))
    assert shown(space, "LastTransition").Value.Value.Text == "OffToHeatUp"
    put(space, "States.Plant", 3.0)
    assert shown(space, "LastTransition").Value.Value.Text == "HeatUpToRunning"


def test_the_first_state_of_another_field_process_is_no_transition() -> None:
    space = made_space()
    put(space, "States.Plant", 2.0)
    put(space, "States.Plant", 3.0)
    put(space, "States.Plant", 3.0, status.BAD_NO_COMMUNICATION)
    put(space, "States.Plant", 1.0)
    assert shown(space, "CurrentState").Value.Value.Text == "Off"
    last = shown(space, "LastTransition")
    assert (last.Value, last.StatusCode.value) == (None, status.BAD_WAITING_FOR_INITIAL_DATA)


# -- another configuration ------------------------------------------------------------------------


def test_the_same_configuration_has_the_same_nodes_and_versions() -> None:
    one, two = made_space(), made_space()
    names = [node.to_string() for node in one._nodes.own]
    assert names == [node.to_string() for node in two._nodes.own]
    assert value(one, own_id("/Stack/NodeVersion")) == value(two, own_id("/Stack/NodeVersion"))
    assert show(one, MODEL, SITE) == []


def test_nodeids_do_not_depend_on_place_kind_or_number() -> None:
    one = made_space()
    moved = {
        name: dataclasses.replace(known, location="Hall 2", kind="Other")
        for name, known in MODEL.equipment.items()
    }
    other = points_of(*RULES, *reversed(DEVICES), *gateway_points())
    before = {node for node in one._nodes.own if str(node.Identifier)[:2] != "//"}
    show(one, dataclasses.replace(MODEL, equipment=moved), other)
    after = {node for node in one._nodes.own if str(node.Identifier)[:2] != "//"}
    assert before == after


def listed(events: list[Any]) -> dict[str, int]:
    (event,) = events
    assert event.type_id == standard_id(IDS.GeneralModelChangeEventType)
    return {one.Affected.to_string(): one.Verb for one in event.fields["Changes"].Value}


def test_model_change_events_name_what_came_went_and_changed() -> None:
    space = made_space()
    version = value(space, own_id("/Fan/NodeVersion"))
    stack = value(space, own_id("/Stack/NodeVersion"))
    more = [*DEVICES, {"tag": "Fan.Speed", "units": "1/min"}]
    told = listed(show(space, MODEL, points_of(*more, *gateway_points(), *RULES)))
    assert told == {"ns=2;s=Fan.Speed": changes.ADDED, "ns=2;s=/Fan": changes.REFERENCE_ADDED}
    assert value(space, own_id("/Fan/NodeVersion")) != version
    assert value(space, own_id("/Stack/NodeVersion")) == stack
    told = listed(show(space, MODEL, SITE))
    assert told == {"ns=2;s=Fan.Speed": changes.DELETED, "ns=2;s=/Fan": changes.REFERENCE_DELETED}
    other = [one for one in DEVICES if one["tag"] != "Stack.Hours"]
    typed = [*other, {"tag": "Stack.Hours", "units": "h"}]
    told = listed(show(space, MODEL, points_of(*typed, *gateway_points(), *RULES)))
    assert told["ns=2;s=Stack.Hours"] == changes.DATA_TYPE_CHANGED


def test_a_semantic_change_event_names_points_with_another_unit_or_range() -> None:
    space = made_space()
    other = [dict(one) for one in DEVICES]
    other[0]["value_max"] = 800
    other[1]["units"] = "mV"
    (event,) = show(space, MODEL, points_of(*other, *gateway_points(), *RULES))
    assert event.type_id == standard_id(IDS.SemanticChangeEventType)
    affected = {one.Affected.to_string() for one in event.fields["Changes"].Value}
    assert affected == {"ns=2;s=Stack.Temperature", "ns=2;s=Stack.Voltage"}


def test_a_semantic_change_event_names_points_that_got_or_lost_a_unit_or_range() -> None:
    space = made_space()
    other = [dict(one) for one in DEVICES]
    del other[0]["value_min"], other[0]["value_max"]
    other[1] |= {"value_min": 0, "value_max": 10}
    other[7]["units"] = "V"
    events = show(space, MODEL, points_of(*other, *gateway_points(), *RULES))
    assert [event.type_id for event in events] == [standard_id(IDS.SemanticChangeEventType)]
    affected = {one.Affected.to_string() for one in events[0].fields["Changes"].Value}
    assert affected == {"ns=2;s=Stack.Temperature", "ns=2;s=Stack.Voltage", "ns=2;s=Fan.Ratio"}


def test_very_many_changes_are_told_without_a_list() -> None:
    space = made_space()
    many = [{"tag": f"Big.C{number}"} for number in range(changes.LISTED_MAX)]
    (event,) = show(space, MODEL, points_of(*DEVICES, *gateway_points(), *RULES, *many))
    assert event.type_id == standard_id(IDS.BaseModelChangeEventType)
    assert event.fields == {}


def test_what_can_not_be_built_changes_nothing() -> None:
    space = made_space()
    nodes = dict(space.aspace._nodes)
    references = {node: list(data.references) for node, data in nodes.items()}
    with pytest.raises(ValueError, match=r"two nodes would be called ns=2;s=Fan\.Mode"):
        space.prepare(MODEL, points_of(*DEVICES, DEVICES[6]))
    assert space.aspace._nodes == nodes
    assert {node: data.references for node, data in nodes.items()} == references


def test_another_configuration_leaves_the_search_for_garbage_nothing_to_look_through() -> None:
    space = made_space()
    many = [{"tag": f"Big.C{number}"} for number in range(1_000)]
    points = points_of(*DEVICES, *many)
    before = len(gc.get_objects())
    show(space, MODEL, points)
    assert len(gc.get_objects()) < before + 1_000


def test_the_nodes_of_the_configuration_before_can_be_given_back() -> None:
    space = made_space()
    show(space, MODEL, SITE[:4])
    nodes = dict(space.aspace._nodes)
    assert space._left
    space.forget()
    assert not space._left
    assert space.aspace._nodes == nodes


def test_builders_of_other_parts_add_their_nodes_in_every_configuration() -> None:
    space = made_space()
    seen: list[str] = []

    def build(nodes: Nodes, model: SiteModel, points: Any) -> None:
        seen.append(model.site)
        for point in points:
            if point.equipment == "Fan":
                node = member_id(point.tag, "Extra")
                nodes.object(node, f"{point.channel}_Extra", own_id("/Fan"), standard_id(58))

    space.builders.append(build)
    show(space, MODEL, SITE)
    assert own_id("Fan.Mode/Extra") in space.aspace
    show(space, MODEL, SITE[:6])
    assert own_id("Fan.Mode/Extra") not in space.aspace
    assert own_id("Fan.Running/Extra") in space.aspace
    assert seen == ["Lab", "Lab"]


# -- the builder ----------------------------------------------------------------------------------


class CountingSpace(AddressSpace):
    """Counts how often a node's references are set."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups = 0

    def get(self, nodeid: ua.NodeId) -> NodeData | None:
        self.lookups += 1
        return super().get(nodeid)


def test_clear_leaves_what_was_there_and_looks_at_each_parent_once() -> None:
    aspace = CountingSpace()
    aspace._nodes = standard_copy()._nodes
    before = {node: list(data.references) for node, data in aspace._nodes.items()}
    nodes = Nodes(aspace)
    objects = standard_id(IDS.ObjectsFolder)
    for number in range(2_000):
        nodes.object(own_id(f"o{number}"), f"o{number}", objects, standard_id(58))
    aspace.lookups = 0
    nodes.clear()
    assert aspace.lookups < 10
    assert {node: list(data.references) for node, data in aspace._nodes.items()} == before
    nodes.object(own_id("o1"), "o1", objects, standard_id(58))
    with pytest.raises(ValueError, match="two nodes would be called"):
        nodes.object(own_id("o1"), "o1", objects, standard_id(58))
    with pytest.raises(ValueError, match="no node"):
        nodes.object(own_id("o2"), "o2", own_id("nowhere"), standard_id(58))
    with pytest.raises(ValueError, match="no node"):
        nodes.refer(own_id("o1"), standard_id(35), own_id("nowhere"))
