"""Checks that an address space keeps to OPC 10000-3; for any space, whoever built its nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from asyncua import ua

from gateway.opcua.names import standard_id
from gateway.opcua.nodes.space import Space
from tests.gateway.opcua.nodes_case import attribute, browse_name, targets

IDS = ua.ObjectIds
HIERARCHICAL = standard_id(IDS.HierarchicalReferences)
MANDATORY = standard_id(IDS.ModellingRule_Mandatory)


def own(space: Space) -> list[ua.NodeId]:
    return list(space._nodes.own)


def below(space: Space, root: ua.NodeId) -> set[ua.NodeId]:
    """A type and all its subtypes."""
    found, waiting = {root}, [root]
    while waiting:
        for one in targets(space, waiting.pop(), IDS.HasSubtype):
            if one not in found:
                found.add(one)
                waiting.append(one)
    return found


def supertypes(space: Space, node: ua.NodeId) -> Iterator[ua.NodeId]:
    """A type and those it comes from."""
    while True:
        yield node
        above = targets(space, node, IDS.HasSubtype, forward=False)
        if not above:
            return
        node = above[0]


def class_of(space: Space, node: ua.NodeId) -> int:
    return int(attribute(space, node, ua.AttributeIds.NodeClass))


def assert_whole(space: Space) -> None:
    """Every reference leads to a node that is there, and is there in the other direction too."""
    one_way = {IDS.HasTypeDefinition, IDS.HasModellingRule}
    for node, data in space.aspace._nodes.items():
        assert data.nodeid == node
        for one in data.references:
            assert one.NodeId in space.aspace, f"{node} -> {one.NodeId}"
    for node in own(space):
        for one in space.aspace[node].references:
            if one.ReferenceTypeId.Identifier in one_way:
                continue
            target = class_of(space, one.NodeId)
            if target == ua.NodeClass.Method and one.NodeId.NamespaceIndex == 0:
                continue  # a type's method, which all its instances share (OPC 10000-3, 5.7)
            back = [
                other
                for other in space.aspace[one.NodeId].references
                if other.NodeId == node
                and other.ReferenceTypeId == one.ReferenceTypeId
                and other.IsForward != one.IsForward
            ]
            assert len(back) == 1, f"{node} {one.ReferenceTypeId} {one.NodeId}"


def check_every_reference_leads_to_a_node_and_comes_back(space: Space) -> None:
    assert_whole(space)


def check_every_node_has_the_attributes_of_its_class(space: Space) -> None:
    always = {"NodeId", "NodeClass", "BrowseName", "DisplayName"}
    needed: dict[int, set[str]] = {
        ua.NodeClass.Object: {"EventNotifier"},
        ua.NodeClass.ObjectType: {"IsAbstract"},
        ua.NodeClass.DataType: {"IsAbstract"},
        ua.NodeClass.Method: {"Executable", "UserExecutable"},
        ua.NodeClass.Variable: {
            *("DataType", "ValueRank", "AccessLevel", "UserAccessLevel", "Historizing")
        },
    }
    for node in own(space):
        names = {number.name for number in space.aspace[node].attributes}
        assert always | needed[class_of(space, node)] <= names, node


def check_types_of_instances_are_there_and_not_abstract(space: Space) -> None:
    for node in own(space):
        kinds = targets(space, node, IDS.HasTypeDefinition)
        number = class_of(space, node)
        if number not in (ua.NodeClass.Object, ua.NodeClass.Variable):
            assert kinds == []
            continue
        assert len(kinds) == 1, node
        of_type = ua.NodeClass(class_of(space, kinds[0]))
        wanted = {
            ua.NodeClass.Object: ua.NodeClass.ObjectType,
            ua.NodeClass.Variable: ua.NodeClass.VariableType,
        }
        assert of_type == wanted[ua.NodeClass(number)]
        inside_a_type = any(
            class_of(space, one) == ua.NodeClass.ObjectType
            for kind in (IDS.HasComponent, IDS.HasProperty)
            for one in targets(space, node, kind, forward=False)
        )
        abstract = attribute(space, kinds[0], ua.AttributeIds.IsAbstract)
        assert inside_a_type or not abstract, f"{node} is a {kinds[0]}"


def mandatory(space: Space, kind: ua.NodeId) -> set[tuple[int, str]]:
    """Browse names of the children that instances of a type must have."""
    names = set()
    for one in supertypes(space, kind):
        for reference in (IDS.HasComponent, IDS.HasProperty):
            for child in targets(space, one, reference):
                if MANDATORY in targets(space, child, IDS.HasModellingRule):
                    names.add(browse_name(space, child))
    return names


def children(space: Space, node: ua.NodeId) -> list[ua.NodeId]:
    kinds = below(space, HIERARCHICAL)
    found = dict.fromkeys(
        one.NodeId
        for one in space.aspace[node].references
        if one.IsForward and one.ReferenceTypeId in kinds
    )
    return list(found)


def check_instances_have_the_mandatory_children_of_their_types(space: Space) -> None:
    seen = 0
    for node in own(space):
        kinds = targets(space, node, IDS.HasTypeDefinition)
        if not kinds:
            continue
        names = {browse_name(space, child) for child in children(space, node)}
        wanted = mandatory(space, kinds[0])
        assert wanted <= names, f"{node} lacks {wanted - names}"
        seen += len(wanted)
    assert seen > 50  # the test looks at something


def check_browse_names_are_unique_among_siblings(space: Space) -> None:
    for node in [*own(space), standard_id(IDS.ObjectsFolder), standard_id(IDS.Server)]:
        names = Counter(browse_name(space, child) for child in children(space, node))
        assert [name for name, count in names.items() if count > 1] == [], node


def check_values_are_of_their_data_type_and_rank(space: Space) -> None:
    for node in own(space):
        data: Any = space.aspace[node]
        if class_of(space, node) != ua.NodeClass.Variable or data.value is None:
            continue
        held = data.value
        number = ua.AttributeIds.Value
        shown = held.value_callback(node, number) if held.value_callback else held.value
        if shown.Value is None:
            continue
        kind = attribute(space, node, ua.AttributeIds.DataType)
        rank = attribute(space, node, ua.AttributeIds.ValueRank)
        assert bool(shown.Value.is_array) == (rank == 1), node
        built_in = standard_id(shown.Value.VariantType.value)
        if built_in == standard_id(IDS.Int32):
            enumerations = below(space, standard_id(IDS.Enumeration))
            assert kind in enumerations | {standard_id(IDS.Int32)}, node
        else:
            assert kind in below(space, built_in), node


def check_numeric_names_of_the_standard_are_all_of_its_namespace(space: Space) -> None:
    for node in own(space):
        assert node.NamespaceIndex in (2, 3)
        assert isinstance(node.Identifier, int) == (node.NamespaceIndex == 3)


CHECKS = (
    check_every_reference_leads_to_a_node_and_comes_back,
    check_every_node_has_the_attributes_of_its_class,
    check_types_of_instances_are_there_and_not_abstract,
    check_instances_have_the_mandatory_children_of_their_types,
    check_browse_names_are_unique_among_siblings,
    check_values_are_of_their_data_type_and_rank,
    check_numeric_names_of_the_standard_are_all_of_its_namespace,
)
