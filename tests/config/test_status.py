"""Status codes: the numbers of the OPC Foundation, and the arithmetic of their severity."""

from __future__ import annotations

import itertools

import pytest

from config import status

GOOD = [status.GOOD, status.GOOD_LOCAL_OVERRIDE]
UNCERTAIN = [status.UNCERTAIN_LAST_USABLE, status.UNCERTAIN_NO_COMMUNICATION]
BAD = [status.BAD_TIMEOUT, status.BAD_WAITING_FOR_INITIAL_DATA]


def test_names_and_numbers_are_those_of_the_opc_foundation() -> None:
    ua = pytest.importorskip("asyncua.ua")
    for row in status.STATUS_ROWS:
        assert getattr(ua.StatusCodes, row.name) == row.code, row.name


def test_each_row_has_its_own_code_name_and_meaning() -> None:
    for column in ("code", "name", "meaning"):
        values = [getattr(row, column) for row in status.STATUS_ROWS]
        assert len(set(values)) == len(values)


def test_every_constant_is_in_the_table() -> None:
    constants = {
        value
        for name, value in vars(status).items()
        if name.startswith(("GOOD", "UNCERTAIN", "BAD")) and isinstance(value, int)
    }
    assert constants == {row.code for row in status.STATUS_ROWS}


def test_severity_is_in_the_top_two_bits() -> None:
    assert all(status.is_good(code) and not status.is_bad(code) for code in GOOD)
    assert not any(status.is_good(code) or status.is_bad(code) for code in UNCERTAIN)
    assert all(status.is_bad(code) and not status.is_good(code) for code in BAD)


def test_the_worst_of_two_never_gets_better_and_keeps_the_first_of_equals() -> None:
    for first, second in itertools.product(GOOD + UNCERTAIN + BAD, repeat=2):
        result = status.worst(first, second)
        assert result in (first, second)
        assert result >> 30 == max(first >> 30, second >> 30)
        if first >> 30 == second >> 30:
            assert result == first


def test_unknown_codes_are_shown_as_numbers() -> None:
    assert status.name_of(status.BAD_TIMEOUT) == "BadTimeout"
    assert status.name_of(0x80010000) == "0x80010000"
