"""Roles of points, and points of users."""

from __future__ import annotations

import pytest

from config.opcua import OpcUaRight
from gateway.opcua.security.rights import Rights
from gateway.opcua.users import ANONYMOUS, NOBODY, Role, User

RIGHTS = Rights(
    [
        OpcUaRight(Points=["PSU.Current"], Read="administrator", Write="administrator"),
        OpcUaRight(Points=["PSU.*", "Battery.*"], Read="operator", Write="engineer"),
    ]
)
USERS = {role: User(role.name.lower(), role) for role in Role}


@pytest.mark.parametrize(
    ("tag", "reads", "writes"),
    [
        ("Stack.Temperature", Role.OBSERVER, Role.OPERATOR),
        ("PSU.Voltage", Role.OPERATOR, Role.ENGINEER),
        ("PSU.Current", Role.ADMINISTRATOR, Role.ADMINISTRATOR),  # the first that fits
        ("", Role.OBSERVER, Role.OPERATOR),
    ],
)
def test_the_least_role_that_may(tag: str, reads: Role, writes: Role) -> None:
    for role, user in USERS.items():
        assert RIGHTS.may_read(user, tag) == (role >= reads)
        assert RIGHTS.may_write(user, tag) == (role >= writes)
        # Asked again, it is the same.
        assert RIGHTS.may_read(user, tag) == (role >= reads)


def test_a_users_own_points_go_further_for_setting_only() -> None:
    anna = User("anna", Role.ENGINEER, ("Battery.*",))
    assert RIGHTS.may_write(anna, "Battery.Power")
    assert not RIGHTS.may_write(anna, "PSU.Voltage")
    assert RIGHTS.may_read(anna, "PSU.Voltage")
    assert RIGHTS.may(anna, Role.OPERATOR, "")


def test_a_method_may_ask_for_more_than_the_point() -> None:
    operator, engineer = USERS[Role.OPERATOR], USERS[Role.ENGINEER]
    assert not RIGHTS.may(operator, Role.ENGINEER, "Stack.Temperature")
    assert RIGHTS.may(engineer, Role.ENGINEER, "Stack.Temperature")
    assert not RIGHTS.may(operator, Role.OPERATOR, "PSU.Voltage")


def test_nobody_may_nothing_and_anonymous_reads() -> None:
    assert not RIGHTS.may_read(NOBODY, "") and not RIGHTS.may(NOBODY, Role.OBSERVER, "")
    assert RIGHTS.may_read(ANONYMOUS, "Stack.Temperature")
    assert not RIGHTS.may_write(ANONYMOUS, "Stack.Temperature")


def test_who_may_write_may_read() -> None:
    odd = Rights([OpcUaRight(Points=["*"], Read="engineer", Write="operator")])
    assert not odd.may_write(USERS[Role.OPERATOR], "Stack.Temperature")
