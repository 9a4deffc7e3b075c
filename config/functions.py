"""Local grid functions as the files declare them: what helps the grid while the cloud is away.

A part of ``*_ControlStates.json`` (config/model.py). Defaults are those of IEEE Std 1547-2018
where it has them; each key names its table. safety/grid.py makes rules of the language of them.

Inputs (`Voltage`, `Frequency`, `Exchange`, `Power`, `StateOfCharge`) are infix expressions, so a
meter that counts the other way round is written ``-Meter.Power``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag

from config.keys import Keys

Role = Literal["Setpoint", "Maximum", "Minimum", "Offset"]
PowerSign = Literal["injects", "absorbs"]
Performance = Literal["A", "B"]  # category of reactive power capability

AboveZero = Annotated[float, Field(gt=0)]
ZeroOrMore = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
ShareOfAll = Annotated[float, Field(gt=0, le=1)]
FilterSeconds = Annotated[float, Field(ge=0, le=86_400)]
CurvePoint = Annotated[list[float], Field(min_length=2, max_length=2)]
CurvePoints = Annotated[list[CurvePoint], Field(min_length=2, max_length=20)]


class FunctionBase(Keys):
    """What all functions have in common. `Output` is ``Equipment.Channel``."""

    Active: bool = True
    Description: str = ""
    Output: str
    When: str | None = None  # infix: acts only while true; on a bad result limits hold on
    BadValue: float | None = None  # what it gives on bad inputs; none = what the function says


_Role = Role  # inside the class the key hides the type


class Expression(FunctionBase):
    """Any number of the rule language, as setpoint, limit or offset of an output."""

    Function: Literal["Expression"] = "Expression"
    Role: _Role
    Value: str  # infix


# ---------------------------------------------------------------- reactive power


class VoltVar(FunctionBase):
    """Reactive power by voltage (IEEE 1547-2018, 5.3.3, table 8). Bad voltage: lets go."""

    Function: Literal["VoltVar"]
    Voltage: str  # infix; in the unit of `Nominal`
    Nominal: AboveZero  # V
    Rated: AboveZero  # rated apparent power in units of the output, e.g. kVA for kvar
    Category: Performance = "B"
    Curve: CurvePoints | None = None  # voltage and reactive power in p.u.; default by category
    Reference: Annotated[float, Field(ge=0.95, le=1.05)] = 1.0  # p.u.; moves the default curve
    AdjustTime: Annotated[float, Field(ge=300, le=5000)] | None = None  # s; the reference follows
    ResponseTime: FilterSeconds | None = None  # s, open loop (90 %); default A 10, B 5
    Positive: PowerSign = "injects"  # what a positive value of the output does with reactive power


class WattVar(FunctionBase):
    """Reactive power by active power (IEEE 1547-2018, 5.3.4, table 9). Bad power: lets go."""

    Function: Literal["WattVar"]
    Power: str  # infix, injected active power in the unit of `Rated`
    Rated: AboveZero  # rated power in units of the output, e.g. kW for kvar
    Category: Performance = "B"
    PowerMin: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # p.u., smallest power of the unit
    Curve: CurvePoints | None = None  # active and reactive power in p.u.; default by category
    ResponseTime: FilterSeconds = 10.0  # s, open loop (90 %)
    Positive: PowerSign = "injects"


class FixedPowerFactor(FunctionBase):
    """Reactive power in a fixed ratio to active power (IEEE 1547-2018, 5.3.2). Bad power: lets
    go."""

    Function: Literal["FixedPowerFactor"]
    Power: str  # infix, active power; its sign does not matter
    PowerFactor: Annotated[float, Field(gt=0, le=1)] = 1.0
    Excitation: Literal["over", "under"] = "over"  # over-excited injects, under-excited absorbs
    ReactiveMax: AboveZero | None = None  # in units of the output
    ResponseTime: FilterSeconds = 10.0  # s, open loop (90 %)
    Positive: PowerSign = "injects"


# ---------------------------------------------------------------- active power by grid state


class VoltWatt(FunctionBase):
    """Maximum of active power by voltage (IEEE 1547-2018, 5.4.2, table 10). Bad voltage: lets
    go."""

    Function: Literal["VoltWatt"]
    Voltage: str  # infix; in the unit of `Nominal`
    Nominal: AboveZero  # V
    Rated: AboveZero  # rated active power in units of the output
    PowerMin: Annotated[float, Field(ge=0, le=1)] = 0.0  # p.u., smallest power of the unit
    Curve: CurvePoints | None = None  # voltage and active power in p.u.; default of table 10
    ResponseTime: FilterSeconds = 10.0  # s, open loop (90 %)
    Positive: PowerSign = "injects"


class FrequencyDroop(FunctionBase):
    """Active power by frequency (IEEE 1547-2018, 6.5.2.7, tables 23 and 24). Bad frequency: lets
    go.

    ``limit`` is a maximum: for a generator above the nominal frequency, for a load below it.
    ``offset`` moves the setpoint both ways, for storage.
    """

    Function: Literal["FrequencyDroop"]
    Frequency: str  # infix, Hz
    Nominal: Literal[50, 60] = 50  # Hz
    Rated: AboveZero  # rated active power in units of the output
    Response: Literal["limit", "offset"] = "limit"
    Power: str | None = None  # infix, measured output: a limit starts where it was; else at `Rated`
    PowerMin: float = 0.0  # in units of the output; a limit goes no lower
    DeadbandOver: Annotated[float, Field(ge=0, le=5)] = 0.036  # Hz
    DeadbandUnder: Annotated[float, Field(ge=0, le=5)] = 0.036  # Hz
    DroopOver: Annotated[float, Field(gt=0, le=1)] = 0.05  # p.u. frequency a p.u. power
    DroopUnder: Annotated[float, Field(gt=0, le=1)] = 0.05
    ResponseTime: FilterSeconds = 5.0  # s, open loop (90 %)
    Positive: PowerSign = "injects"


class RampLimit(FunctionBase):
    """Maximum that lets the measured output rise at most `Up` a second. Bad power: lets go."""

    Function: Literal["RampLimit"]
    Power: str  # infix, the measured output in units and sign of the output
    Up: AboveZero  # units of the output a second
    Margin: AboveZero | None = None  # units of the output; default what `Up` gives in 10 s


# ---------------------------------------------------------------- connection point


class ConnectionLimit(FunctionBase):
    """What both limits at the connection point share."""

    Exchange: str  # infix, power at the connection point, import positive
    Power: str  # infix, the measured output in units and sign of the output
    Limit: ZeroOrMore  # units of the output
    Margin: ZeroOrMore = 0.0  # units of the output, kept below the limit
    Share: ShareOfAll = 1.0  # of the headroom, where several outputs keep one limit
    TimeConstant: FilterSeconds = 5.0  # s
    Positive: PowerSign = "injects"  # what a positive value of the output does with active power


class ExportLimit(ConnectionLimit):
    """Keeps the exported power at or below `Limit`. Bad inputs: as if nothing were consumed on
    the site, so the output is held to its share of the limit."""

    Function: Literal["ExportLimit"]


class ImportLimit(ConnectionLimit):
    """Keeps the imported power at or below `Limit`. Bad inputs: the output may import nothing."""

    Function: Literal["ImportLimit"]


# ---------------------------------------------------------------- batteries


class BatteryFunction(FunctionBase):
    """What the functions of a battery share. `Output` is its active power setpoint."""

    StateOfCharge: str  # infix, %
    DischargePower: AboveZero  # units of the output
    ChargePower: AboveZero  # units of the output
    StateOfChargeMin: Percent = 10.0  # %; no discharge below
    StateOfChargeMax: Percent = 90.0  # %; no charge above
    Taper: Annotated[float, Field(gt=0, le=50)] = 1.0  # %; over which power falls to zero
    Positive: PowerSign = "injects"  # "injects": positive discharges


class PeakShaving(BatteryFunction):
    """Discharges while import would exceed `Limit`, charges while it is below `ChargeBelow`.
    Bad inputs: lets go."""

    Function: Literal["PeakShaving"]
    Exchange: str  # infix, power at the connection point, import positive
    Power: str  # infix, measured power of the battery in units and sign of the output
    Limit: float  # units of the output, import
    ChargeBelow: float  # units of the output, import; at most `Limit`
    TimeConstant: FilterSeconds = 5.0  # s


class Balance(BatteryFunction):
    """Virtual islanding: holds the exchange at the connection point at `Target`. Bad inputs: lets
    go."""

    Function: Literal["Balance"]
    Exchange: str  # infix, power at the connection point, import positive
    Power: str  # infix, measured power of the battery in units and sign of the output
    Target: str = "0"  # infix, import, units of the output
    Share: ShareOfAll = 1.0  # of the deviation, where several batteries balance one site
    TimeConstant: FilterSeconds = 5.0  # s


class FrequencyContainment(BatteryFunction):
    """Frequency containment reserve of a battery, as setpoint or on top of one. Bad inputs: lets
    go.

    Defaults are those of Continental Europe (Regulation (EU) 2017/1485, annex V): full activation
    at 200 mHz, insensitivity at most 10 mHz.
    """

    Function: Literal["FrequencyContainment"]
    Frequency: str  # infix, Hz
    Nominal: Literal[50, 60] = 50  # Hz
    Reserve: AboveZero  # units of the output, at full activation
    FullActivation: Annotated[float, Field(gt=0, le=5)] = 0.2  # Hz
    Deadband: Annotated[float, Field(ge=0, le=5)] = 0.01  # Hz
    ResponseTime: FilterSeconds = 0.0  # s, open loop (90 %)
    Role: Literal["Setpoint", "Offset"] = "Setpoint"


# A file that leaves `Function` out means an expression, so the choice is made by hand.
FUNCTION_KEY: Final = "Function"


def function_name(value: Any) -> str:
    """Which function an object of a file, or a model, is."""
    if isinstance(value, dict):
        return str(value.get(FUNCTION_KEY, "Expression"))
    return str(getattr(value, FUNCTION_KEY, "Expression"))


GridFunction = Annotated[
    Annotated[Expression, Tag("Expression")]
    | Annotated[VoltVar, Tag("VoltVar")]
    | Annotated[WattVar, Tag("WattVar")]
    | Annotated[FixedPowerFactor, Tag("FixedPowerFactor")]
    | Annotated[VoltWatt, Tag("VoltWatt")]
    | Annotated[FrequencyDroop, Tag("FrequencyDroop")]
    | Annotated[RampLimit, Tag("RampLimit")]
    | Annotated[ExportLimit, Tag("ExportLimit")]
    | Annotated[ImportLimit, Tag("ImportLimit")]
    | Annotated[PeakShaving, Tag("PeakShaving")]
    | Annotated[Balance, Tag("Balance")]
    | Annotated[FrequencyContainment, Tag("FrequencyContainment")],
    Discriminator(function_name),
]
