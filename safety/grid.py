"""Local grid functions as terms of the rule language.

A function is a row of the program like a rule: it is compiled, evaluated, explained and replayed
as one. The models with their keys and defaults stand in config/functions.py, the behaviour in
docs/grid.md.

Inside, active and reactive power are positive where they are injected into the grid; `Positive`
says what the output means, and is applied once, at the edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from config.findings import Severity
from config.functions import (
    Balance,
    BatteryFunction,
    ConnectionLimit,
    ExportLimit,
    Expression,
    FixedPowerFactor,
    FrequencyContainment,
    FrequencyDroop,
    GridFunction,
    ImportLimit,
    PeakShaving,
    RampLimit,
    Role,
    VoltVar,
    VoltWatt,
    WattVar,
)
from safety import infix
from safety.terms import (
    Arithmetic,
    Call,
    Choice,
    Compare,
    Curve,
    Filter,
    Negative,
    Number,
    RuleSyntaxError,
    Slew,
    Term,
)

# A first-order lag reaches 90 % of a step after ln 10 time constants (IEEE 1547-2018, 3.1: open
# loop response time).
RESPONSE_TIME_CONSTANTS: Final = math.log(10.0)

# IEEE 1547-2018, table 8: voltage less its reference, and reactive power, both in p.u.
VOLT_VAR_POINTS: Final = {
    "A": ((-0.1, 0.25), (0.0, 0.0), (0.1, -0.25)),
    "B": ((-0.08, 0.44), (-0.02, 0.0), (0.02, 0.0), (0.08, -0.44)),
}
VOLT_VAR_RESPONSE_S: Final = {"A": 10.0, "B": 5.0}
REFERENCE_MIN: Final = 0.95  # p.u., of an adjusting reference (5.3.3)
REFERENCE_MAX: Final = 1.05

# IEEE 1547-2018, table 9: reactive power at rated power, injecting and absorbing it.
WATT_VAR_INJECTING: Final = {"A": -0.25, "B": -0.44}
WATT_VAR_ABSORBING: Final = 0.44
WATT_VAR_P1: Final = 0.2
WATT_VAR_P2: Final = 0.5

# IEEE 1547-2018, table 10.
VOLT_WATT_V1: Final = 1.06
VOLT_WATT_V2: Final = 1.10
VOLT_WATT_P2_MAX: Final = 0.2

FAST: Final = 1e12  # units of the output a second: downwards a ramp limit lets go
FROZEN: Final = 1e-12
RAMP_MARGIN_S: Final = 10.0  # default margin of a ramp limit, as time at its rate

_FLIPPED: Final[dict[Role, Role]] = {
    "Setpoint": "Setpoint",
    "Offset": "Offset",
    "Maximum": "Minimum",
    "Minimum": "Maximum",
}
# Keys that hold infix, by what they are for; `When` is a row of its own.
_INPUTS: Final = (
    "Value",
    "Voltage",
    "Frequency",
    "Power",
    "Exchange",
    "StateOfCharge",
    "Target",
)
_UNITS: Final = {"Voltage": "", "Frequency": "Hz", "StateOfCharge": "%"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a parameter of a function; `key` is below the function's own."""

    key: str
    rule: str
    message: str
    severity: Severity = "error"


# ---------------------------------------------------------------- for the compiler


def role(function: GridFunction) -> Role:
    """What the function's number is to its output."""
    match function:
        case Expression() | FrequencyContainment():
            return function.Role
        case VoltWatt() | ExportLimit():
            return "Maximum" if function.Positive == "injects" else _FLIPPED["Maximum"]
        case ImportLimit():
            return "Minimum" if function.Positive == "injects" else _FLIPPED["Minimum"]
        case RampLimit():
            return "Maximum"
        case FrequencyDroop():
            return "Maximum" if function.Response == "limit" else "Offset"
        case _:
            return "Setpoint"


def term(function: GridFunction) -> Term:
    """The function's number, in units and sign of its output.

    Raises RuleSyntaxError where `check` finds an error.
    """
    match function:
        case Expression():
            return infix.parse(function.Value)
        case VoltVar():
            return _signed(_volt_var(function), function.Positive)
        case WattVar():
            return _signed(_watt_var(function), function.Positive)
        case FixedPowerFactor():
            return _signed(_fixed_power_factor(function), function.Positive)
        case VoltWatt():
            return _signed(_volt_watt(function), function.Positive)
        case FrequencyDroop():
            return _frequency_droop(function)
        case RampLimit():
            return _ramp_limit(function)
        case ExportLimit() | ImportLimit():
            return _signed(_connection_limit(function), function.Positive)
        case PeakShaving():
            return _signed(_peak_shaving(function), function.Positive)
        case Balance():
            return _signed(_balance(function), function.Positive)
        case FrequencyContainment():
            return _signed(_frequency_containment(function), function.Positive)


def bad_value(function: GridFunction) -> float:
    """What the function gives while its inputs are bad, in units and sign of its output.

    NaN means nothing: it lets go of the output. Limits at the connection point hold on: without a
    meter the site is taken to consume nothing (export) or to have nothing to spare (import).
    """
    if function.BadValue is not None:
        return function.BadValue
    match function:
        case ExportLimit():
            room = max(function.Limit - function.Margin, 0.0) * function.Share
            return room if function.Positive == "injects" else -room
        case ImportLimit():
            return 0.0
        case _:
            return math.nan


def inputs(function: GridFunction, units: str) -> list[tuple[str, Term, str]]:
    """(key, term, units that it must have) of the function's inputs, for an output in `units`.

    Powers are in the unit of the output. The unit of a voltage is that of `Nominal`, which says
    none. Raises RuleSyntaxError where `check` finds an error.
    """
    found = []
    for key in _INPUTS:
        text = getattr(function, key, None)
        if isinstance(text, str):
            found.append((key, infix.parse(text), _UNITS.get(key, units)))
    return found


# ---------------------------------------------------------------- pieces of terms


def _number(value: float) -> Number:
    return Number(value)


def _plus(left: Term, right: Term) -> Term:
    return Arithmetic("+", left, right)


def _minus(left: Term, right: Term) -> Term:
    return Arithmetic("-", left, right)


def _scaled(value: Term, factor: float) -> Term:
    return value if factor == 1.0 else Arithmetic("*", value, _number(factor))


def _signed(injected: Term, positive: str) -> Term:
    """An injected power in the sign of its output, or the other way round."""
    return injected if positive == "injects" else Negative(injected)


def _input(text: str) -> Term:
    return infix.parse(text)


def _lagged(value: Term, time_constant_s: float) -> Term:
    return value if time_constant_s == 0.0 else Filter(value, round(time_constant_s * 1e9))


def _responding(value: Term, response_s: float) -> Term:
    return _lagged(value, response_s / RESPONSE_TIME_CONSTANTS)


def _curve(value: Term, points: list[tuple[float, float]]) -> Term:
    return Curve(value, tuple(points))


def _at_least(value: Term, low: Term) -> Term:
    return Call("max", (value, low))


def _at_most(value: Term, high: Term) -> Term:
    return Call("min", (value, high))


# ---------------------------------------------------------------- reactive power


def _volt_var(function: VoltVar) -> Term:
    voltage: Term = Arithmetic("/", _input(function.Voltage), _number(function.Nominal))
    if function.Curve is not None:
        points = [(x, y) for x, y in function.Curve]
    else:
        around = function.Reference
        points = [(around + x, y) for x, y in VOLT_VAR_POINTS[function.Category]]
    if function.AdjustTime is not None:
        # The curve moves with the voltage's slow mean; moving the voltage back is the same.
        mean = _lagged(voltage, function.AdjustTime)
        kept = _at_most(_at_least(mean, _number(REFERENCE_MIN)), _number(REFERENCE_MAX))
        voltage = _plus(_minus(voltage, kept), _number(function.Reference))
    seconds = function.ResponseTime
    if seconds is None:
        seconds = VOLT_VAR_RESPONSE_S[function.Category]
    return _scaled(_responding(_curve(voltage, points), seconds), function.Rated)


def _watt_var(function: WattVar) -> Term:
    power = Arithmetic("/", _input(function.Power), _number(function.Rated))
    first = max(WATT_VAR_P1, function.PowerMin)
    points = [
        (-1.0, WATT_VAR_ABSORBING),
        (-WATT_VAR_P2, 0.0),
        (-first, 0.0),
        (first, 0.0),
        (WATT_VAR_P2, 0.0),
        (1.0, WATT_VAR_INJECTING[function.Category]),
    ]
    if function.Curve is not None:
        points = [(x, y) for x, y in function.Curve]
    reactive = _responding(_curve(power, points), function.ResponseTime)
    return _scaled(reactive, function.Rated)


def _fixed_power_factor(function: FixedPowerFactor) -> Term:
    ratio = math.sqrt(1.0 - function.PowerFactor**2) / function.PowerFactor
    reactive: Term = _scaled(Call("abs", (_input(function.Power),)), ratio)
    if function.ReactiveMax is not None:
        reactive = _at_most(reactive, _number(function.ReactiveMax))
    reactive = _responding(reactive, function.ResponseTime)
    return reactive if function.Excitation == "over" else Negative(reactive)


# ---------------------------------------------------------------- active power by grid state


def _volt_watt(function: VoltWatt) -> Term:
    voltage = Arithmetic("/", _input(function.Voltage), _number(function.Nominal))
    points = [(VOLT_WATT_V1, 1.0), (VOLT_WATT_V2, min(VOLT_WATT_P2_MAX, function.PowerMin))]
    if function.Curve is not None:
        points = [(x, y) for x, y in function.Curve]
    power = _responding(_curve(voltage, points), function.ResponseTime)
    return _scaled(power, function.Rated)


def _frequency_droop(function: FrequencyDroop) -> Term:
    nominal, rated = float(function.Nominal), function.Rated
    over = nominal + function.DeadbandOver
    under = nominal - function.DeadbandUnder
    falling = [(over, 0.0), (over + nominal * function.DroopOver, -rated)]
    rising = [(under - nominal * function.DroopUnder, rated), (under, 0.0)]
    frequency = _input(function.Frequency)
    if function.Response == "offset":
        points = rising + falling if under < over else [rising[0], (under, 0.0), falling[1]]
        change = _responding(_curve(frequency, points), function.ResponseTime)
        return _signed(change, function.Positive)
    beyond = Compare(">", frequency, _number(over))
    if function.Positive == "absorbs":  # a load gives way below the nominal frequency
        falling = [(x, -y) for x, y in rising]
        beyond = Compare("<", frequency, _number(under))
    change = _responding(_curve(frequency, falling), function.ResponseTime)
    lowest = _number(function.PowerMin)
    if function.Power is None:
        return _at_least(_plus(_number(rated), change), lowest)
    before = _frozen(_input(function.Power), beyond)
    return Choice(beyond, _at_least(_plus(before, change), lowest), _number(rated))


def _frozen(value: Term, when: Term) -> Term:
    """The value as it was when `when` became true, as long as it is true.

    A slew starts at its value after a bad one, and then moves by next to nothing.
    """
    nothing = Arithmetic("/", _number(1.0), _number(0.0))
    return Slew(Choice(when, value, nothing), FROZEN, FROZEN)


def _ramp_limit(function: RampLimit) -> Term:
    margin = function.Up * RAMP_MARGIN_S if function.Margin is None else function.Margin
    return _plus(Slew(_input(function.Power), function.Up, FAST), _number(margin))


# ---------------------------------------------------------------- connection point


def _injected(function: ConnectionLimit | PeakShaving | Balance) -> Term:
    return _signed(_input(function.Power), function.Positive)


def _connection_limit(function: ExportLimit | ImportLimit) -> Term:
    # What the output injects now, and what is left (or missing) at the connection point. Both
    # together are the site's consumption, whatever the output does: that is what is lagged.
    room = function.Limit - function.Margin
    exchange = _input(function.Exchange)
    if isinstance(function, ExportLimit):
        left = _plus(exchange, _number(room))
    else:
        left = _minus(exchange, _number(room))
    wanted = _plus(_injected(function), _scaled(left, function.Share))
    return _lagged(wanted, function.TimeConstant)


# ---------------------------------------------------------------- batteries


def _within_battery(injected: Term, function: BatteryFunction) -> Term:
    """Held to what the battery may do at its state of charge."""
    low, high, taper = function.StateOfChargeMin, function.StateOfChargeMax, function.Taper
    charge = _input(function.StateOfCharge)
    discharge = _curve(charge, [(low, 0.0), (low + taper, function.DischargePower)])
    absorb = _curve(charge, [(high - taper, -function.ChargePower), (high, 0.0)])
    return _at_least(_at_most(injected, discharge), absorb)


def _peak_shaving(function: PeakShaving) -> Term:
    demand = _lagged(_plus(_input(function.Exchange), _injected(function)), function.TimeConstant)
    above = _at_least(_minus(demand, _number(function.Limit)), _number(0.0))
    below = _at_most(_minus(demand, _number(function.ChargeBelow)), _number(0.0))
    return _within_battery(_plus(above, below), function)


def _balance(function: Balance) -> Term:
    deviation = _minus(_input(function.Exchange), _input(function.Target))
    wanted = _plus(_injected(function), _scaled(deviation, function.Share))
    return _within_battery(_lagged(wanted, function.TimeConstant), function)


def _frequency_containment(function: FrequencyContainment) -> Term:
    nominal, reserve = float(function.Nominal), function.Reserve
    full, dead = function.FullActivation, function.Deadband
    points = [(nominal - full, reserve), (nominal + full, -reserve)]
    if dead > 0.0:
        points[1:1] = [(nominal - dead, 0.0), (nominal + dead, 0.0)]
    power = _responding(_curve(_input(function.Frequency), points), function.ResponseTime)
    return _within_battery(power, function)


# ---------------------------------------------------------------- mistakes


def check(function: GridFunction) -> list[Fault]:
    """Everything that is wrong with a function's own parameters; where none of it is an error,
    `term` does not raise."""
    faults: list[Fault] = []
    for key in _INPUTS:
        text = getattr(function, key, None)
        if isinstance(text, str):
            _check_infix(key, text, faults)
    if isinstance(function, VoltVar | WattVar | VoltWatt) and function.Curve is not None:
        faults += _curve_faults(function.Curve) + _unused(function)
    if isinstance(function, BatteryFunction):
        faults += _battery_faults(function)
    faults += _own_faults(function)
    return faults


def _check_infix(key: str, text: str, faults: list[Fault]) -> None:
    try:
        infix.parse(text)
    except RuleSyntaxError as error:
        faults.append(Fault(key, "rule-syntax", f"The expression can't be read: {error}."))


def _curve_faults(points: list[list[float]]) -> list[Fault]:
    return [
        Fault(
            f"Curve[{at}]",
            "curve-order",
            f"The curve goes from {before[0]:g} to {here[0]:g}; its first numbers must rise from "
            "point to point. Put the points in order, and give each place one.",
        )
        for at, (before, here) in enumerate(pairwise(points), 1)
        if here[0] <= before[0]
    ]


def _unused(function: VoltVar | WattVar | VoltWatt) -> list[Fault]:
    """Keys that shape the default curve only, beside a curve of one's own."""
    keys = {"PowerMin"}
    if isinstance(function, WattVar):
        keys.add("Category")  # that of a VoltVar has a response time too
    if isinstance(function, VoltVar) and function.AdjustTime is None:
        keys.add("Reference")
    text = "It shapes the default curve, and the function has a Curve of its own. Remove one."
    unused = sorted(keys & function.model_fields_set)
    return [Fault(key, "key-unused", text, "warning") for key in unused]


def _battery_faults(function: BatteryFunction) -> list[Fault]:
    low, high = function.StateOfChargeMin, function.StateOfChargeMax
    if high - low >= 2 * function.Taper:
        return []
    return [
        Fault(
            "StateOfChargeMax",
            "value-out-of-range",
            f"From {low:g} to {high:g} % there is no room for the battery to work: leave at least "
            f"twice the Taper, {2 * function.Taper:g} %, between StateOfChargeMin and "
            "StateOfChargeMax.",
        )
    ]


def _own_faults(function: GridFunction) -> list[Fault]:
    match function:
        case PeakShaving() if function.ChargeBelow > function.Limit:
            message = (
                f"The battery would charge below {function.ChargeBelow:g} and discharge above "
                f"{function.Limit:g}, both at once. Set ChargeBelow to at most Limit."
            )
            return [Fault("ChargeBelow", "value-out-of-range", message)]
        case FrequencyContainment() if function.Deadband >= function.FullActivation:
            message = (
                f"The deadband of {function.Deadband:g} Hz reaches to full activation at "
                f"{function.FullActivation:g} Hz. Make it smaller."
            )
            return [Fault("Deadband", "value-out-of-range", message)]
        case ExportLimit() | ImportLimit() if function.Margin > function.Limit > 0:
            message = (
                f"The margin of {function.Margin:g} is larger than the limit of "
                f"{function.Limit:g}. Make it smaller."
            )
            return [Fault("Margin", "value-out-of-range", message)]
        case FrequencyDroop() if function.Response == "offset" and function.Power is not None:
            message = (
                "An offset is added to the setpoint and does not ask what the output was. Remove "
                'Power, or set "Response" to "limit".'
            )
            return [Fault("Power", "key-unused", message, "warning")]
        case _:
            return []
