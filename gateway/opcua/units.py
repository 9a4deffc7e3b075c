"""Engineering units as OPC UA shows them: UNECE common codes for the units that sites write.

Source: UN/CEFACT Recommendation 20; the number of a code is its letters as big-endian bytes
(OPC 10000-8 section 5.6.4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNECE_NAMESPACE: Final = "http://www.opcfoundation.org/UA/units/un/cefact"
OWN_NAMESPACE: Final = "urn:gatepost:units"
NO_CODE: Final = -1

# What people write where a point has no unit.
_NONE: Final = ("", "na", "n/a", "none", "-")

# spelling in a site's files: (UNECE code, symbol, name)
_UNITS: Final[dict[str, tuple[str, str, str]]] = {
    "degC": ("CEL", "°C", "degree Celsius"),
    "°C": ("CEL", "°C", "degree Celsius"),
    "degF": ("FAH", "°F", "degree Fahrenheit"),
    "°F": ("FAH", "°F", "degree Fahrenheit"),
    "K": ("KEL", "K", "kelvin"),
    "mV": ("2Z", "mV", "millivolt"),
    "V": ("VLT", "V", "volt"),
    "kV": ("KVT", "kV", "kilovolt"),
    "mA": ("4K", "mA", "milliampere"),
    "A": ("AMP", "A", "ampere"),
    "A/cm2": ("A4", "A/cm²", "ampere per square centimetre"),
    "mOhm": ("E45", "mΩ", "milliohm"),
    "Ohm": ("OHM", "Ω", "ohm"),
    "W": ("WTT", "W", "watt"),
    "kW": ("KWT", "kW", "kilowatt"),
    "MW": ("MAW", "MW", "megawatt"),
    "VA": ("D46", "V·A", "volt-ampere"),
    "kVA": ("KVA", "kV·A", "kilovolt-ampere"),
    "MVA": ("MVA", "MV·A", "megavolt-ampere"),
    "var": ("D44", "var", "var"),
    "kvar": ("KVR", "kvar", "kilovar"),
    "kVAr": ("KVR", "kvar", "kilovar"),
    "Wh": ("WHR", "W·h", "watt hour"),
    "kWh": ("KWH", "kW·h", "kilowatt hour"),
    "MWh": ("MWH", "MW·h", "megawatt hour"),
    "kvarh": ("K3", "kvar·h", "kilovar hour"),
    "kVAh": ("C79", "kVA·h", "kilovolt-ampere hour"),
    "Ah": ("AMH", "A·h", "ampere hour"),
    "J": ("JOU", "J", "joule"),
    "kJ": ("KJO", "kJ", "kilojoule"),
    "MJ": ("3B", "MJ", "megajoule"),
    "Hz": ("HTZ", "Hz", "hertz"),
    "kHz": ("KHZ", "kHz", "kilohertz"),
    "%": ("P1", "%", "percent"),
    "ppm": ("59", "ppm", "part per million"),
    "Pa": ("PAL", "Pa", "pascal"),
    "hPa": ("A97", "hPa", "hectopascal"),
    "kPa": ("KPA", "kPa", "kilopascal"),
    "MPa": ("MPA", "MPa", "megapascal"),
    "mbar": ("MBR", "mbar", "millibar"),
    "bar": ("BAR", "bar", "bar"),
    "psi": ("PS", "lbf/in²", "pound-force per square inch"),
    "us": ("B98", "µs", "microsecond"),
    "ms": ("C26", "ms", "millisecond"),
    "s": ("SEC", "s", "second"),
    "min": ("MIN", "min", "minute"),
    "h": ("HUR", "h", "hour"),
    "d": ("DAY", "d", "day"),
    "mm": ("MMT", "mm", "millimetre"),
    "cm": ("CMT", "cm", "centimetre"),
    "m": ("MTR", "m", "metre"),
    "km": ("KMT", "km", "kilometre"),
    "m2": ("MTK", "m²", "square metre"),
    "m3": ("MTQ", "m³", "cubic metre"),
    "l": ("LTR", "l", "litre"),
    "L": ("LTR", "l", "litre"),
    "m/s": ("MTS", "m/s", "metre per second"),
    "km/h": ("KMH", "km/h", "kilometre per hour"),
    "rpm": ("RPM", "r/min", "revolutions per minute"),
    "1/min": ("RPM", "r/min", "revolutions per minute"),
    "Nm": ("NU", "N·m", "newton metre"),
    "deg": ("DD", "°", "degree (angle)"),
    "°": ("DD", "°", "degree (angle)"),
    "W/m2": ("D54", "W/m²", "watt per square metre"),
    "ml/min": ("41", "ml/min", "millilitre per minute"),
    "l/s": ("G51", "l/s", "litre per second"),
    "l/min": ("L2", "l/min", "litre per minute"),
    "L/min": ("L2", "l/min", "litre per minute"),
    "l/h": ("E32", "l/h", "litre per hour"),
    "m3/min": ("G53", "m³/min", "cubic metre per minute"),
    "m3/h": ("MQH", "m³/h", "cubic metre per hour"),
    "m3/s": ("MQS", "m³/s", "cubic metre per second"),
    "g": ("GRM", "g", "gram"),
    "kg": ("KGM", "kg", "kilogram"),
    "g/s": ("F29", "g/s", "gram per second"),
    "g/min": ("F28", "g/min", "gram per minute"),
    "g/h": ("F27", "g/h", "gram per hour"),
    "kg/s": ("KGS", "kg/s", "kilogram per second"),
    "kg/min": ("F31", "kg/min", "kilogram per minute"),
    "kg/h": ("E93", "kg/h", "kilogram per hour"),
    "mol": ("C34", "mol", "mole"),
}


@dataclass(frozen=True, slots=True)
class Unit:
    """An engineering unit: who numbers it, its number there, its symbol and its name."""

    namespace: str
    number: int
    symbol: str
    name: str


def code_number(code: str) -> int:
    """The number of a UNECE common code: its letters as big-endian bytes."""
    return int.from_bytes(code.encode("ascii"), "big")


def unit_of(text: str) -> Unit | None:
    """The unit that a site's file calls `text`; None where it says that there is none.

    A unit without an entry here keeps its spelling and has no UNECE number.
    """
    text = text.strip()
    if text.lower() in _NONE:
        return None
    known = _UNITS.get(text)
    if known is None:
        return Unit(OWN_NAMESPACE, NO_CODE, text, text)
    code, symbol, name = known
    return Unit(UNECE_NAMESPACE, code_number(code), symbol, name)
