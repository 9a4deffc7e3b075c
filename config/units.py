"""Units of measure: how sites write them, what they measure, and how they convert.

One table for the checks of rules (safety/measures.py) and for OPC UA (gateway/opcua/units.py).
Sources: factors from the SI Brochure, 9th edition, and NIST SP 811 appendix B (psi, degF); common
codes from UN/CEFACT Recommendation 20.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

# Exponents of metre, kilogram, second, ampere, kelvin and mole.
Dimension = tuple[int, int, int, int, int, int]

NUMBER: Final[Dimension] = (0, 0, 0, 0, 0, 0)
_LENGTH: Final[Dimension] = (1, 0, 0, 0, 0, 0)
_AREA: Final[Dimension] = (2, 0, 0, 0, 0, 0)
_VOLUME: Final[Dimension] = (3, 0, 0, 0, 0, 0)
_MASS: Final[Dimension] = (0, 1, 0, 0, 0, 0)
_TIME: Final[Dimension] = (0, 0, 1, 0, 0, 0)
_PER_TIME: Final[Dimension] = (0, 0, -1, 0, 0, 0)
_SPEED: Final[Dimension] = (1, 0, -1, 0, 0, 0)
_FLOW: Final[Dimension] = (3, 0, -1, 0, 0, 0)
_MASS_FLOW: Final[Dimension] = (0, 1, -1, 0, 0, 0)
_PRESSURE: Final[Dimension] = (-1, 1, -2, 0, 0, 0)
ENERGY: Final[Dimension] = (2, 1, -2, 0, 0, 0)
_POWER: Final[Dimension] = (2, 1, -3, 0, 0, 0)
_IRRADIANCE: Final[Dimension] = (0, 1, -3, 0, 0, 0)
_CURRENT: Final[Dimension] = (0, 0, 0, 1, 0, 0)
_DENSITY: Final[Dimension] = (-2, 0, 0, 1, 0, 0)
_CHARGE: Final[Dimension] = (0, 0, 1, 1, 0, 0)
_VOLTAGE: Final[Dimension] = (2, 1, -3, -1, 0, 0)
_RESISTANCE: Final[Dimension] = (2, 1, -3, -2, 0, 0)
_TEMPERATURE: Final[Dimension] = (0, 0, 0, 0, 1, 0)
_AMOUNT: Final[Dimension] = (0, 0, 0, 0, 0, 1)

# spellings in a site's files, UNECE code, symbol, name, what it measures, SI units in one of it.
# Apparent and reactive power have the dimension of power, as in SI: W*W + var*var is VA*VA.
_TABLE: Final[tuple[tuple[str, str, str, str, Dimension, float], ...]] = (
    ("degC °C", "CEL", "°C", "degree Celsius", _TEMPERATURE, 1.0),
    ("degF °F", "FAH", "°F", "degree Fahrenheit", _TEMPERATURE, 5 / 9),
    ("K", "KEL", "K", "kelvin", _TEMPERATURE, 1.0),
    ("mV", "2Z", "mV", "millivolt", _VOLTAGE, 1e-3),
    ("V", "VLT", "V", "volt", _VOLTAGE, 1.0),
    ("kV", "KVT", "kV", "kilovolt", _VOLTAGE, 1e3),
    ("mA", "4K", "mA", "milliampere", _CURRENT, 1e-3),
    ("A", "AMP", "A", "ampere", _CURRENT, 1.0),
    ("kA", "B22", "kA", "kiloampere", _CURRENT, 1e3),
    ("A/cm2", "A4", "A/cm²", "ampere per square centimetre", _DENSITY, 1e4),
    ("mOhm", "E45", "mΩ", "milliohm", _RESISTANCE, 1e-3),
    ("Ohm Ω", "OHM", "Ω", "ohm", _RESISTANCE, 1.0),
    ("kOhm", "B49", "kΩ", "kiloohm", _RESISTANCE, 1e3),
    ("W", "WTT", "W", "watt", _POWER, 1.0),
    ("kW", "KWT", "kW", "kilowatt", _POWER, 1e3),
    ("MW", "MAW", "MW", "megawatt", _POWER, 1e6),
    ("VA", "D46", "V·A", "volt-ampere", _POWER, 1.0),
    ("kVA", "KVA", "kV·A", "kilovolt-ampere", _POWER, 1e3),
    ("MVA", "MVA", "MV·A", "megavolt-ampere", _POWER, 1e6),
    ("var VAr", "D44", "var", "var", _POWER, 1.0),
    ("kvar kVAr", "KVR", "kvar", "kilovar", _POWER, 1e3),
    ("Mvar MVAr", "MAR", "Mvar", "megavar", _POWER, 1e6),
    ("Wh", "WHR", "W·h", "watt hour", ENERGY, 3.6e3),
    ("kWh", "KWH", "kW·h", "kilowatt hour", ENERGY, 3.6e6),
    ("MWh", "MWH", "MW·h", "megawatt hour", ENERGY, 3.6e9),
    ("kvarh", "K3", "kvar·h", "kilovar hour", ENERGY, 3.6e6),
    ("kVAh", "C79", "kVA·h", "kilovolt-ampere hour", ENERGY, 3.6e6),
    ("Ah", "AMH", "A·h", "ampere hour", _CHARGE, 3.6e3),
    ("J", "JOU", "J", "joule", ENERGY, 1.0),
    ("kJ", "KJO", "kJ", "kilojoule", ENERGY, 1e3),
    ("MJ", "3B", "MJ", "megajoule", ENERGY, 1e6),
    ("mHz", "MTZ", "mHz", "millihertz", _PER_TIME, 1e-3),
    ("Hz", "HTZ", "Hz", "hertz", _PER_TIME, 1.0),
    ("kHz", "KHZ", "kHz", "kilohertz", _PER_TIME, 1e3),
    ("% percent", "P1", "%", "percent", NUMBER, 1e-2),
    ("ppm", "59", "ppm", "part per million", NUMBER, 1e-6),
    ("Pa", "PAL", "Pa", "pascal", _PRESSURE, 1.0),
    ("hPa", "A97", "hPa", "hectopascal", _PRESSURE, 1e2),
    ("kPa", "KPA", "kPa", "kilopascal", _PRESSURE, 1e3),
    ("MPa", "MPA", "MPa", "megapascal", _PRESSURE, 1e6),
    ("mbar", "MBR", "mbar", "millibar", _PRESSURE, 1e2),
    ("bar", "BAR", "bar", "bar", _PRESSURE, 1e5),
    ("psi", "PS", "lbf/in²", "pound-force per square inch", _PRESSURE, 6894.757293168361),
    ("us", "B98", "µs", "microsecond", _TIME, 1e-6),
    ("ms", "C26", "ms", "millisecond", _TIME, 1e-3),
    ("s", "SEC", "s", "second", _TIME, 1.0),
    ("min", "MIN", "min", "minute", _TIME, 60.0),
    ("h", "HUR", "h", "hour", _TIME, 3600.0),
    ("d", "DAY", "d", "day", _TIME, 86400.0),
    ("mm", "MMT", "mm", "millimetre", _LENGTH, 1e-3),
    ("cm", "CMT", "cm", "centimetre", _LENGTH, 1e-2),
    ("m", "MTR", "m", "metre", _LENGTH, 1.0),
    ("km", "KMT", "km", "kilometre", _LENGTH, 1e3),
    ("cm2", "CMK", "cm²", "square centimetre", _AREA, 1e-4),
    ("m2", "MTK", "m²", "square metre", _AREA, 1.0),
    ("m3", "MTQ", "m³", "cubic metre", _VOLUME, 1.0),
    ("ml", "MLT", "ml", "millilitre", _VOLUME, 1e-6),
    ("l L", "LTR", "l", "litre", _VOLUME, 1e-3),
    ("m/s", "MTS", "m/s", "metre per second", _SPEED, 1.0),
    ("km/h", "KMH", "km/h", "kilometre per hour", _SPEED, 1 / 3.6),
    ("rpm 1/min", "RPM", "r/min", "revolutions per minute", _PER_TIME, 1 / 60),
    ("Nm", "NU", "N·m", "newton metre", ENERGY, 1.0),
    ("deg °", "DD", "°", "degree (angle)", NUMBER, 0.017453292519943295),
    ("W/m2", "D54", "W/m²", "watt per square metre", _IRRADIANCE, 1.0),
    ("ml/min", "41", "ml/min", "millilitre per minute", _FLOW, 1e-6 / 60),
    ("l/s", "G51", "l/s", "litre per second", _FLOW, 1e-3),
    ("l/min L/min", "L2", "l/min", "litre per minute", _FLOW, 1e-3 / 60),
    ("l/h", "E32", "l/h", "litre per hour", _FLOW, 1e-3 / 3600),
    ("m3/min", "G53", "m³/min", "cubic metre per minute", _FLOW, 1 / 60),
    ("m3/h", "MQH", "m³/h", "cubic metre per hour", _FLOW, 1 / 3600),
    ("m3/s", "MQS", "m³/s", "cubic metre per second", _FLOW, 1.0),
    ("g", "GRM", "g", "gram", _MASS, 1e-3),
    ("kg", "KGM", "kg", "kilogram", _MASS, 1.0),
    ("g/s", "F29", "g/s", "gram per second", _MASS_FLOW, 1e-3),
    ("g/min", "F28", "g/min", "gram per minute", _MASS_FLOW, 1e-3 / 60),
    ("g/h", "F27", "g/h", "gram per hour", _MASS_FLOW, 1e-3 / 3600),
    ("kg/s", "KGS", "kg/s", "kilogram per second", _MASS_FLOW, 1.0),
    ("kg/min", "F31", "kg/min", "kilogram per minute", _MASS_FLOW, 1 / 60),
    ("kg/h", "E93", "kg/h", "kilogram per hour", _MASS_FLOW, 1 / 3600),
    ("mol", "C34", "mol", "mole", _AMOUNT, 1.0),
)
# Kelvins at the zero of a scale that has another zero.
_ZERO_K: Final = {"degC": 273.15, "degF": 459.67 * 5 / 9}

# What people write where a point has no unit.
_NONE: Final = ("", "na", "n/a", "none", "-")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measure.

    symbol     as the site writes it
    dimension  what it measures; None where the unit is not known
    scale      SI units in one of it
    zero       SI value at its zero: 273.15 for degC
    code       UNECE common code, empty where it has none
    printed    symbol as people print it, e.g. ``°C``
    name       in words
    """

    symbol: str
    dimension: Dimension | None = None
    scale: float = 1.0
    zero: float = 0.0
    code: str = ""
    printed: str = ""
    name: str = ""


def _table() -> dict[str, Unit]:
    found = {}
    for spellings, code, printed, name, dimension, scale in _TABLE:
        zero = _ZERO_K.get(spellings.split()[0], 0.0)
        for symbol in spellings.split():
            found[symbol] = Unit(symbol, dimension, scale, zero, code, printed, name)
    found["1"] = Unit("1", NUMBER)
    return found


UNITS: Final = _table()


def scales_of(dimension: Dimension) -> tuple[float, ...]:
    """The scales of all units in the table that measure this."""
    return tuple(unit.scale for unit in UNITS.values() if unit.dimension == dimension)


# What people write where they mean a unit of the table; in small letters.
_MEANT: Final = {
    "c": "degC",
    "celsius": "degC",
    "deg c": "degC",
    "deg_c": "degC",
    "f": "degF",
    "fahrenheit": "degF",
    "deg_f": "degF",
    "kelvin": "K",
    "pct": "%",
    "perc": "%",
    "sec": "s",
    "second": "s",
    "seconds": "s",
    "minute": "min",
    "minutes": "min",
    "hr": "h",
    "hour": "h",
    "hours": "h",
    "volt": "V",
    "volts": "V",
    "amp": "A",
    "amps": "A",
    "watt": "W",
    "watts": "W",
}


def meant(text: str) -> str:
    """The unit of the table that an unknown one probably means; '' where none is alike."""
    word = text.strip().lower()
    found = _MEANT.get(word)
    if found is not None:
        return found
    return next((symbol for symbol in UNITS if symbol.lower() == word), "")


_FACTOR: Final = re.compile(r"\s*(?P<symbol>[^\s*·/^\d²³]+|1)\^?(?P<power>\d|[²³])?\s*")


def unit_of(text: str) -> Unit | None:
    """The unit that `text` names; None where it says that there is none.

    Products and quotients of units in the table are understood, read from left to right:
    ``kW/min``, ``W/m2``, ``kW*h``. A unit that isn't keeps its spelling, without a dimension.
    """
    text = text.strip()
    if text.lower() in _NONE:
        return None
    return UNITS.get(text) or _composed(text) or Unit(text)


def _composed(text: str) -> Unit | None:
    """The product or quotient of units that `text` writes; None where it isn't one."""
    result = UNITS["1"]
    at, sign = 0, 1
    while True:
        match = _FACTOR.match(text, at)
        if match is None:
            return None
        base = UNITS.get(f"{match['symbol']}{match['power'] or ''}")
        power = 1
        if base is None:
            base = UNITS.get(match["symbol"])
            power = int((match["power"] or "1").translate({ord("²"): "2", ord("³"): "3"}))
        if base is None or power == 0:
            return None
        result = combined(result, base, sign * power, text)
        at = match.end()
        if at == len(text):
            return result
        if text[at] not in "*·/":
            return None
        sign = -1 if text[at] == "/" else 1
        at += 1


def combined(left: Unit, right: Unit, power: int, symbol: str = "") -> Unit:
    """The unit of left x right^power; a scale's zero doesn't count in products."""
    if left.dimension is None or right.dimension is None:
        return Unit(symbol)
    pairs = zip(left.dimension, right.dimension, strict=True)
    m, kg, s, a, k, mol = (of_left + power * of_right for of_left, of_right in pairs)
    scale = left.scale * right.scale**power
    if not 0.0 < scale < math.inf:
        return Unit(symbol)
    return Unit(symbol, (m, kg, s, a, k, mol), scale)
