"""Control states as the files declare them: machines of states, transitions and ramps.

A part of ``*_ControlStates.json`` (config/model.py). Everything here is Gatepost's own; the seed
names control states without a form for them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from config.keys import DelaySeconds, Keys, Seconds

OutputValue = float | int | bool | str  # a number, or the name of a discrete output's state
Asker = Literal["automatic", "operator", "remote", "schedule"]


class RampSegment(Keys):
    """One piece of a setpoint profile: go to `To`, at most `Rate` a second, then stay `Hold`."""

    To: float
    Rate: Annotated[float, Field(gt=0)] | None = None  # units per second; none = at once
    Hold: DelaySeconds = 0.0  # s


class Ramp(Keys):
    """A setpoint profile that begins when its state is entered, at what the output shows then."""

    Segments: Annotated[list[RampSegment], Field(min_length=1, max_length=100)]
    PauseWhen: str | None = None  # infix; time and value stand still, e.g. the stack lags behind
    Held: bool = True  # as `Hold` of the state; false = as `Set`


class ControlState(Keys):
    """One state of a machine.

    `Hold` and `Set` map outputs, ``Equipment.Channel``, to values. What a state holds is changed
    by trips and interlocks only; what it sets gives way to setpoints of people, leases, schedules.
    """

    Description: str = ""
    Hold: dict[str, OutputValue] = {}
    Set: dict[str, OutputValue] = {}
    Ramps: dict[str, Ramp] = {}
    MinTime: DelaySeconds = 0.0  # s, before a transition that is not urgent
    MaxTime: Seconds | None = None  # s, then `OnTimeout` follows
    OnTimeout: str | None = None


class Transition(Keys):
    """A way from one state, several, or any (``*``) to another."""

    From: str | Annotated[list[str], Field(min_length=1)] = "*"
    To: str
    By: Annotated[list[Asker], Field(min_length=1)] = ["automatic"]
    When: str | None = None  # infix; a bad result counts as false
    Urgent: bool = False  # does not wait for `MinTime`
    Description: str = ""


class StateMachine(Keys):
    """A machine of control states; its point ``States.<name>`` shows the present one."""

    Active: bool = True
    Description: str = ""
    Initial: str
    States: Annotated[dict[str, ControlState], Field(min_length=1)]
    Transitions: list[Transition] = []
