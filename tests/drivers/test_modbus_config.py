"""The Modbus driver's configuration: what is wrong with an instrument, and what is asked of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.findings import SiteError
from config.site import Instrument
from drivers.contract import Block, Cost
from drivers.modbus.tcp import check, cost, plan, split
from tests.drivers.instruments import modbus

HOLDING = {"Type": "HRegister", "ReadWrite": "RW"}


def rules(device: Instrument) -> list[tuple[str, str]]:
    return [(finding.key, finding.rule) for finding in check(device)]


# ---------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"Type": "HoldingRegister"}, ("Type", "type-unknown")),
        ({"DataType": "float23"}, ("DataType", "datatype-unknown")),
        ({"IOPoint": None}, ("IOPoint", "address-missing")),
        ({"IOPoint": "forty"}, ("IOPoint", "address-missing")),
        ({"IOPoint": -1}, ("IOPoint", "address-range")),
        ({"IOPoint": 65535}, ("IOPoint", "address-range")),  # float32 needs two
        ({"IOPoint": 400001}, ("IOPoint", "address-range")),
        ({"Registers": 1}, ("Registers", "registers-mismatch")),
        ({"Unit": "left"}, ("Unit", "unit-invalid")),
        ({"Unit": 256}, ("Unit", "unit-invalid")),
        ({"Scalar": 0}, ("Scalar", "scalar-zero")),
        ({"Type": "IRegister", "ReadWrite": "RW"}, ("ReadWrite", "type-read-only")),
        ({"Type": "DiscreteInputs", "ReadWrite": "W"}, ("ReadWrite", "type-read-only")),
        ({"Type": "Coil", "DataType": "float32"}, ("DataType", "datatype-type")),
        ({"Type": "Coil", "DataType": "bool", "Registers": 2}, ("Registers", "registers-mismatch")),
        ({"DataType": "bit"}, ("BitStart", "bit-range")),
        ({"DataType": "bit", "BitStart": 5, "BitEnd": 4}, ("BitEnd", "bit-range")),
        ({"DataType": "bit", "BitStart": 16, "Registers": 1}, ("BitEnd", "bit-range")),
        ({"ReadWrite": "RW", "SafeValue": 4e38}, ("SafeValue", "value-range")),
        ({"DataType": "bool", "ReadWrite": "W", "Fallback": 2}, ("Fallback", "value-range")),
    ],
)
def test_each_mistake_in_a_channel_is_one_finding(
    keys: dict[str, Any], found: tuple[str, str]
) -> None:
    device = modbus({"X": {"Type": "HRegister", "IOPoint": 10} | keys})
    key, rule = found
    assert rules(device) == [(f"Channels.X.{key}", rule)]
    with pytest.raises(SiteError):
        plan(device)


def test_a_limit_that_the_type_can_not_hold_is_a_warning_and_plans() -> None:
    keys = HOLDING | {"IOPoint": 0, "DataType": "int16", "Scalar": 0.01, "Maximum": 400}
    (finding,) = check(modbus({"X": keys}))
    assert (finding.rule, finding.severity) == ("value-range", "warning")
    assert "40000" in finding.message
    assert len(plan(modbus({"X": keys}))) == 1


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"Connection": None}, ("EquipmentTags.Connection.IP", "connection-missing")),
        ({"Connection": {"Unit": 1}}, ("EquipmentTags.Connection.IP", "connection-missing")),
        (
            {"Connection": {"IP": "127.0.0.1", "Unit": "one"}},
            ("EquipmentTags.Connection.Unit", "unit-invalid"),
        ),
        ({"BlockMax": 1}, ("Channels.X.DataType", "block-too-small")),
    ],
)
def test_each_mistake_in_the_tags_is_one_finding(tags: dict[str, Any], found) -> None:
    assert rules(modbus({"X": {"Type": "HRegister", "IOPoint": 10}}, **tags)) == [found]


def test_all_mistakes_are_found_at_once() -> None:
    device = modbus(
        {
            "A": {"Type": "HRegister", "IOPoint": None, "DataType": "text", "Scalar": 0},
            "B": {"Type": "Register", "IOPoint": "x", "Unit": "y"},
        },
        Connection=None,
    )
    assert len(check(device)) == 1 + 3 + 3


@pytest.mark.parametrize("point", [8192, "8192", "0x2000", " 8192 "])
def test_an_address_may_be_a_number_or_its_text(point: int | str) -> None:
    (block,) = plan(modbus({"X": {"Type": "HRegister", "IOPoint": point}}))
    assert block.request.first == 8192


def test_an_address_that_is_no_number_is_quoted() -> None:
    (finding,) = check(modbus({"X": {"Type": "HRegister", "IOPoint": "40x11"}}))
    assert finding.message.startswith('"40x11" is no register')


@pytest.mark.parametrize(
    ("kind", "point", "meant"),
    [
        ("HRegister", 40001, 0),
        ("HRegister", "40011", 10),
        ("HRegister", 49999, 9998),
        ("HRegister", 40000, None),
        ("HRegister", 50000, None),
        ("HRegister", 30001, None),
        ("IRegister", 30011, 10),
        ("IRegister", 40001, None),
        ("Coil", 40001, None),
    ],
)
def test_an_address_as_manuals_write_it_is_a_warning_and_plans(
    kind: str, point: int | str, meant: int | None
) -> None:
    keys = {"Type": kind, "IOPoint": point} | ({} if kind == "Coil" else {"DataType": "int16"})
    device = modbus({"X": keys})
    found = check(device)
    assert len(plan(device)) == 1
    if meant is None:
        assert found == []
    else:
        (finding,) = found
        assert (finding.key, finding.rule) == ("Channels.X.IOPoint", "address-notation")
        assert finding.severity == "warning"
        assert f"write {meant};" in finding.message


def test_channels_on_one_register_are_one_finding_that_names_them_all() -> None:
    device = modbus(
        {
            "A": {"Type": "HRegister", "IOPoint": 10, "DataType": "float32"},
            "B": HOLDING | {"IOPoint": 11, "DataType": "int16"},
            "C": {"Type": "HRegister", "IOPoint": 11, "DataType": "uint16"},
            "D": {"Type": "IRegister", "IOPoint": 10, "DataType": "float32"},
            "E": {"Type": "HRegister", "IOPoint": 10, "DataType": "float32", "Unit": 2},
            "F": {"Type": "HRegister", "IOPoint": 12, "DataType": "int16"},
        }
    )
    (finding,) = check(device)
    assert (finding.rule, finding.severity) == ("address-shared", "error")
    assert "A, B and C" in finding.message


def test_two_readings_of_one_register_are_a_warning() -> None:
    keys = {"Type": "HRegister", "IOPoint": 10, "DataType": "int16"}
    (finding,) = check(modbus({"A": keys, "B": keys}))
    assert (finding.rule, finding.severity) == ("address-shared", "warning")


def test_what_may_share_a_register() -> None:
    register = {"Type": "HRegister", "IOPoint": 10, "DataType": "uint16"}
    field = register | {"DataType": "bit"}
    assert not check(
        modbus(
            {
                "Word": register,  # a status word, and its flags beside it
                "Low": field | {"BitStart": 0, "BitEnd": 3},
                "High": field | {"BitStart": 4},
                "Set": register | {"IOPoint": 20, "ReadWrite": "W", "ReadBack": "Shown"},
                "Shown": register | {"IOPoint": 20},
            }
        )
    )
    overlapping = {"A": field | {"BitStart": 0, "BitEnd": 3}, "B": field | {"BitStart": 3}}
    assert [rule for _, rule in rules(modbus(overlapping))] == ["address-shared"]
    written = {"Word": register | {"ReadWrite": "RW"}, "Flag": field | {"BitStart": 3}}
    assert [rule for _, rule in rules(modbus(written))] == ["address-shared"]
    pair = {"Set": register | {"ReadWrite": "W"}, "Shown": register}
    assert [rule for _, rule in rules(modbus(pair))] == ["address-shared"]


# ---------------------------------------------------------------- plans


def test_blocks_hold_one_function_one_unit_one_class_and_readable_channels_only() -> None:
    register = {"Type": "HRegister", "DataType": "uint16"}
    blocks = plan(
        modbus(
            {
                "A": register | {"IOPoint": 2},
                "Written": register | {"IOPoint": 1, "ReadWrite": "W"},
                "B": register | {"IOPoint": 0},
                "Slow": register | {"IOPoint": 3, "Class": "Slow"},
                "Other": register | {"IOPoint": 4, "Unit": "0x07"},
                "Input": register | {"IOPoint": 4, "Type": "IRegister"},
                "Coil": {"Type": "Coil", "IOPoint": 5},
                "NoType": {"IOPoint": 6, "DataType": "bool"},
                "Door": {"Type": "DiscreteInputs", "IOPoint": 5},
            }
        )
    )
    seen = [
        (b.request.function, b.request.unit, b.scan_class, list(map(int, b.index))) for b in blocks
    ]
    assert seen == [
        (3, 1, "Fast", [3, 1]),
        (3, 1, "Slow", [4]),
        (3, 7, "Fast", [5]),
        (4, 1, "Fast", [6]),
        (1, 1, "Fast", [7, 8]),
        (2, 1, "Fast", [9]),
    ]
    assert blocks[0].index.dtype == np.int32
    assert blocks[0].label == "unit 1, holding registers 0 to 2, Fast"


def test_block_max_and_gap_max_are_obeyed() -> None:
    channels = {
        f"X{i}": {"Type": "HRegister", "DataType": "uint16", "IOPoint": 3 * i} for i in range(100)
    }
    assert len(plan(modbus(channels))) == 3  # 298 registers, 125 a request at most
    assert all(b.request.count <= 10 for b in plan(modbus(channels, BlockMax=10)))
    assert len(plan(modbus(channels, GapMax=1))) == 100
    coils = {f"C{i}": {"Type": "Coil", "IOPoint": i} for i in range(3000)}
    assert [b.request.count for b in plan(modbus(coils))] == [2000, 1000]


# ---------------------------------------------------------------- parts and labels


CHANNELS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(("uint16", "float32", "float64", "bit")),
        st.sampled_from(("Fast", "Slow")),
    ),
    min_size=1,
    max_size=30,
)


def all_parts(block: Block) -> list[Block]:
    """A block and everything that it is divided into."""
    return [block, *(small for part in split(block) for small in all_parts(part))]


@settings(deadline=None)
@given(CHANNELS, st.booleans())
def test_labels_are_unique_whatever_is_divided(given_channels, single) -> None:
    channels = {
        f"C{i}": {"Type": "HRegister", "IOPoint": at, "DataType": kind, "Class": name}
        | ({"BitStart": i % 16} if kind == "bit" else {})
        for i, (at, kind, name) in enumerate(given_channels)
    }
    blocks = plan(modbus(channels, SingleRequests=single))
    assert sorted(i for b in blocks for i in b.index) == list(range(1, len(channels) + 1))
    labels = [small.label for block in blocks for small in all_parts(block)]
    assert len(labels) == len(set(labels))
    for block in blocks:
        parts = split(block)
        if parts:
            assert [i for part in parts for i in part.index] == block.index.tolist()
        for small in all_parts(block):
            assert (small.scan_class, small.index.dtype) == (block.scan_class, np.int32)
            ends = [a.first + a.count for a in small.request.members]
            assert small.request.first == small.request.members[0].first
            assert small.request.first + small.request.count == max(ends)


def test_labels_name_the_class_only_where_there_are_several() -> None:
    keys = {"Type": "HRegister", "DataType": "uint16"}
    (block,) = plan(modbus({"A": keys | {"IOPoint": 0}, "B": keys | {"IOPoint": 3}}))
    assert block.label == "unit 1, holding registers 0 to 3"
    assert [part.label for part in split(block)] == [
        "unit 1, holding registers 0",
        "unit 1, holding registers 3",
    ]


def test_single_requests_hold_one_channel_unless_they_share_an_address() -> None:
    keys = {"Type": "HRegister", "DataType": "uint16"}
    bit = {"Type": "HRegister", "DataType": "bit", "IOPoint": 5}
    channels = {f"R{i}": keys | {"IOPoint": i} for i in range(4)}
    channels |= {f"B{i}": bit | {"BitStart": i} for i in range(4)}
    assert [b.index.tolist() for b in plan(modbus(channels, SingleRequests=True))] == [
        [1],
        [2],
        [3],
        [4],
        [5, 6, 7, 8],
    ]


def test_the_cost_of_a_block_is_its_frames() -> None:
    keys = {"Type": "HRegister", "DataType": "uint16"}
    device = modbus(
        {
            "A": keys | {"IOPoint": 0},
            "B": keys | {"IOPoint": 3},
            "C": {"Type": "Coil", "IOPoint": 9},
        }
    )
    assert [cost(device, block) for block in plan(device)] == [Cost(12, 9 + 8), Cost(12, 9 + 1)]
