"""Units: spellings, products, factors, and what is not a unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import units
from config.units import NUMBER, UNITS, Unit, unit_of


def test_every_unit_of_the_table_is_whole() -> None:
    for symbol, unit in UNITS.items():
        assert unit.symbol == symbol
        assert unit.dimension is not None
        assert unit.scale > 0
    codes = {unit.code: unit.printed for unit in UNITS.values() if unit.code}
    assert len(codes) == len(set(codes.values()))


# Units that are written from others by their definition; left and right must agree.
EQUAL = """
kW = W*1 x1000    MW = kW x1000     kWh = kW*h x1      kWh = MJ x3.6      MWh = kWh x1000
J = W*s x1        Nm = J x1         W = V*A x1         kVA = kV*A x1      V = A*Ohm x1
Ah = A*h x1       bar = kPa x100    mbar = hPa x1      MPa = bar x10      psi = Pa x6894.7572931683
h = min x60       d = h x24         km/h = km/h*1 x1   m/s = km/h x3.6    rpm = 1/min x1
Hz = 1/s x1       Hz = rpm x60      % = 1 x0.01        ppm = % x0.0001    m3/h = l/h x1000
l/min = l/s x0.016666666666666666   kg/h = g/min x16.666666666666668      A/cm2 = A/m2 x10000
W/m2 = W/m^2 x1   cm2 = cm*cm x1    m3 = m2*m x1       l = m³ x0.001      kvar = var x1000
""".replace("\n", "   ").split("   ")


@pytest.mark.parametrize("line", [line.strip() for line in EQUAL if line.strip()])
def test_units_agree_with_their_definitions(line: str) -> None:
    left, _, right = line.partition(" = ")
    symbol, _, factor = right.partition(" x")
    one, other = unit_of(left), unit_of(symbol)
    assert one is not None and other is not None
    assert one.dimension == other.dimension is not None
    assert one.scale == pytest.approx(other.scale * float(factor), rel=1e-12)


@pytest.mark.parametrize("text", ["", " ", "NA", "n/a", "none", "-"])
def test_no_unit_is_no_unit(text: str) -> None:
    assert unit_of(text) is None


@pytest.mark.parametrize("text", ["SLPM", "furlong", "kW/", "/s", "kW**h", "m0", "% WMax", "(m)"])
def test_what_is_not_known_keeps_its_spelling(text: str) -> None:
    assert unit_of(text) == Unit(text)


def test_quotients_are_read_from_left_to_right() -> None:
    unit = unit_of("km/h/m*s")
    assert unit is not None
    assert (unit.dimension, unit.scale) == (NUMBER, pytest.approx(1 / 3.6))


def test_scales_with_another_zero() -> None:
    celsius, fahrenheit = UNITS["degC"], UNITS["degF"]
    assert 100 * celsius.scale + celsius.zero == pytest.approx(373.15)
    assert 212 * fahrenheit.scale + fahrenheit.zero == pytest.approx(373.15)
    product = units.combined(celsius, UNITS["s"], -1)
    assert product.zero == 0.0  # a rate is one of differences


def test_a_product_beyond_all_numbers_is_not_known() -> None:
    assert unit_of("*".join(["MWh9"] * 20)) == Unit("*".join(["MWh9"] * 20))


@given(st.one_of(st.text(max_size=20), st.lists(st.sampled_from([*UNITS, *"*/^²9 "])).map("".join)))
def test_any_text_is_read(text: str) -> None:
    unit = unit_of(text)
    assert unit is None or unit.scale > 0


@pytest.mark.parametrize(
    ("text", "unit"),
    [("C", "degC"), (" celsius", "degC"), ("pct", "%"), ("KW", "kW"), ("amps", "A"), ("SLPM", "")],
)
def test_what_an_unknown_unit_means_is_suggested(text: str, unit: str) -> None:
    assert units.meant(text) == unit


def test_what_is_suggested_is_in_the_table() -> None:
    assert {units.meant(word) for word in units._MEANT} <= units.UNITS.keys()
    assert not units._MEANT.keys() & units.UNITS.keys()
