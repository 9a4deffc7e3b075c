"""The program that rules compile to, and the state it keeps: arrays of numbers.

Compiled by safety/compile.py, run by safety/kernel.py (numba) and safety/reference.py (plain
Python, the oracle), carried by safety/engine.py.

The code is that of a stack machine without jumps: both branches of an `if` are computed and one
is taken, so that delays and hysteresis inside a branch keep their time. A cell of the stack is a
value with its quality (`CELL`); a bad cell has the value NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safety.terms import Term

# Ranks of a demand on an output, as in DESIGN section 4. A demand of RANK_SETPOINT is no
# protection: setpoints of operators, leases and schedules go before it.
RANK_NONE: Final = 0
RANK_INTERLOCK: Final = 1
RANK_TRIP: Final = 2
RANK_SETPOINT: Final = 3  # of an ACTION only: what a control state proposes

# Who causes a demand: a row of `rules`, one of these, or CAUSE_MACHINE_FROM minus the row of
# `machines` whose control state demands it.
CAUSE_NONE: Final = -1
CAUSE_STARTUP: Final = -2  # the start-up trip: no good scan yet
CAUSE_MACHINE_FROM: Final = -10

# Quality of a cell. From QUALITY_BAD_FROM on a value can't be used. A point that was never read
# is told apart from one that went bad, because the former must not latch a trip.
QUALITY_GOOD: Final = 0
QUALITY_UNCERTAIN: Final = 1
QUALITY_NEVER: Final = 2  # BadWaitingForInitialData
QUALITY_BAD: Final = 3
QUALITY_BAD_FROM: Final = QUALITY_NEVER

KIND_ALARM: Final = 0
KIND_STATE: Final = 1
KIND_INTERLOCK: Final = 2
KIND_TRIP: Final = 3
KIND_VALUE: Final = 4  # calculates a point of the table; no levels, delays or latches
KIND_PERMISSIVE: Final = 5  # active = permitted; bad inputs never permit
KIND_GUARD: Final = 6  # a condition of a transition, a pause, a function or a suppression
KIND_FUNCTION: Final = 7  # a local grid function: a number for an output
KIND_NAMES: Final = (
    "alarm",
    "state",
    "interlock",
    "trip",
    "value",
    "permissive",
    "guard",
    "function",
)

# What the number of a function is to its output.
ROLE_SETPOINT: Final = 0
ROLE_MAXIMUM: Final = 1
ROLE_MINIMUM: Final = 2
ROLE_OFFSET: Final = 3
ROLE_NAMES: Final = ("Setpoint", "Maximum", "Minimum", "Offset")

# Who may ask for a transition, as bits; the names are the origins of commands.
ASKER_NAMES: Final = ("operator", "remote", "schedule")

ON_BAD_TRIP: Final = 0
ON_BAD_HOLD: Final = 1
ON_BAD_IGNORE: Final = 2
ON_BAD_NAMES: Final = ("trip", "hold", "ignore")

# Opcodes. Operands follow the opcode in the code array. The order matters: the kernel tells
# the groups apart by comparing with the first of each.
OP_POINT: Final = 0  # point            push a point
OP_CONST: Final = 1  # const            push a number
OP_LEVEL: Final = 2  # rule             push the level of a rule that was evaluated before
OP_AGE: Final = 3  # point              push the age of a point in seconds
OP_MACHINE: Final = 4  # machine          push the level of a control state, as the scan began
OP_LIMIT: Final = 5  # which point const              push `point <which> const`
OP_LIMIT_HYST: Final = 6  # which point const slot const  the same with hysteresis
OP_NOT: Final = 10  # 1 -> 1
OP_TRUTH: Final = 11  # 1 -> 1           0 stays 0, everything else becomes 1
OP_QUALITY: Final = 12  # 1 -> 1         0, 1 or 2
OP_DELAY: Final = 13  # slot const       1 -> 1, on-delay
OP_AND: Final = 14  # 2 -> 1
OP_OR: Final = 15  # 2 -> 1
OP_VOTE: Final = 16  # m n degrade       n -> 1; degrade is one of DEGRADE_NAMES
OP_SELECT: Final = 17  # 3 -> 1          condition, value if true, value if false
OP_NEG: Final = 20  # 1 -> 1
OP_ABS: Final = 21  # 1 -> 1
OP_COMPARE: Final = 22  # which          2 -> 1
OP_HYST: Final = 23  # which slot const  2 -> 1
OP_ADD: Final = 24  # 2 -> 1
OP_SUB: Final = 25
OP_MUL: Final = 26
OP_DIV: Final = 27
OP_MOD: Final = 28
OP_MIN: Final = 29
OP_MAX: Final = 30
OP_RATE: Final = 31  # slot float const  1 -> 1, change per second over `const` ns
OP_FILTER: Final = 32  # slot float const  1 -> 1, first-order lag with `const` ns
OP_RAMP: Final = 33  # slot float up down  1 -> 1, follows at most `up` and `down` a second
OP_CURVE: Final = 34  # n x1 y1 ... xn yn  1 -> 1, straight lines between points (const ids)
OP_LOGIC_FROM: Final = OP_NOT
OP_NUMBER_FROM: Final = OP_NEG

# What a bad channel is to a vote: a vote for the trip (2oo3 -> 1oo2 -> trip), left out while
# enough others are good (2oo3 -> 2oo2 -> 1oo1 -> bad), or no vote, and the result is bad where it
# could have decided.
DEGRADE_NONE: Final = 0
DEGRADE_TRIP: Final = 1
DEGRADE_DROP: Final = 2
DEGRADE_NAMES: Final = ("none", "trip", "drop")

# rate(): the window is kept as this many samples; RATE_SLOTS words and RATE_FLOATS numbers each.
RATE_SAMPLES: Final = 10
RATE_SLOTS: Final = RATE_SAMPLES + 2  # how many are kept, where the next goes, their times
RATE_FLOATS: Final = RATE_SAMPLES

# Comparisons: the operand `which` is the set of outcomes that count as true.
COMPARE_LT: Final = 1
COMPARE_EQ: Final = 2
COMPARE_GT: Final = 4
COMPARE_LE: Final = COMPARE_LT | COMPARE_EQ
COMPARE_GE: Final = COMPARE_GT | COMPARE_EQ
COMPARE_NE: Final = COMPARE_LT | COMPARE_GT

RULE: Final = np.dtype(
    [
        ("on_delay_ns", "i8"),
        ("off_delay_ns", "i8"),
        ("bad_value", "f8"),  # of a function: what it gives on bad inputs, NaN = nothing
        ("start", "i4"),  # first word of its code
        ("stop", "i4"),  # one behind its last word
        ("kind", "i4"),
        ("on_bad", "i4"),
        ("level_true", "i4"),  # string id of a true condition; 0 = the code gives the string id
        ("level_first", "i4"),  # first declared level: what a rule takes when it trips on bad
        ("latch", "i4"),
        ("point", "i4"),  # of a value or function: the row of the point table that it writes
        ("output", "i4"),  # of a function: row of `outputs`
        ("role", "i4"),  # of a function
        ("enable", "i4"),  # of a function: row of the guard that lets it act, -1 = always
    ],
    align=True,
)

STATE: Final = np.dtype(
    [
        ("since_ns", "i8"),  # engine time since when a change is pending, 0 = none is
        ("bypass_ns", "i8"),  # engine time at which the bypass ends, 0 = not bypassed
        ("level", "i4"),  # what the rule shows: string id, 0 = inactive
        ("condition", "i4"),  # the level behind the delays and before the latch
        ("pending", "i4"),  # the level that a state is about to take
        ("first_out", "i4"),
        ("quality", "i4"),  # of the last result; travels with alarm(name) and state(name)
        ("held", "i4"),  # the level that it would show if it were not bypassed
        ("active", "?"),  # of a function: it acts on its output
        ("latched", "?"),
        ("seen", "?"),  # the rule had a usable result once
        ("bypassed", "?"),  # in the last scan
        ("held_back", "?"),  # bypassed, and would be active if it were not
    ],
    align=True,
)

EFFECT: Final = np.dtype(
    [
        ("rule", "i4"),  # row of `rules`
        ("level", "i4"),  # string id that the rule must have; the method's name
        ("output", "i4"),  # row of `outputs`
        ("rank", "i4"),
        ("value", "f8"),  # what the output is driven to
    ]
)

OUTPUT: Final = np.dtype(
    [
        ("safe", "f8"),  # NaN = no safe value declared
        ("value", "f8"),  # the protective demand, NaN = none
        ("auto", "f8"),  # what functions and control states propose, NaN = nothing
        ("offset", "f8"),  # the sum of what functions add to any setpoint
        ("low", "f8"),  # limits of any setpoint, -inf and inf = none
        ("high", "f8"),
        ("rank", "i4"),
        ("cause", "i4"),  # of `value`; the constants CAUSE_... say what it can be
        ("auto_cause", "i4"),
        ("low_cause", "i4"),
        ("high_cause", "i4"),
        ("shown", "i4"),  # row of the point table that shows it: ramps start there; 0 = none
    ]
)

# Control states. A machine is in one of its modes; transitions lead from mode to mode. Rows of
# `modes`, `transitions`, `actions` and `segments` that belong together stand behind one another.
MACHINE: Final = np.dtype(
    [
        ("mode", "i4"),  # its first row of `modes`
        ("modes", "i4"),
        ("transition", "i4"),  # its first row of `transitions`, in order of precedence
        ("transitions", "i4"),
        ("initial", "i4"),  # row of `modes`
    ]
)
MODE: Final = np.dtype(
    [
        ("min_ns", "i8"),  # no transition before, but urgent ones
        ("max_ns", "i8"),  # 0 = no limit
        ("level", "i4"),  # string id of its name
        ("timeout", "i4"),  # row of `modes` that follows after `max_ns`, -1 = none
        ("action", "i4"),  # its first row of `actions`
        ("actions", "i4"),
    ]
)
TRANSITION: Final = np.dtype(
    [
        ("origin", "i4"),  # row of `modes`, -1 = from any other
        ("target", "i4"),  # row of `modes`
        ("guard", "i4"),  # row of `rules`, -1 = always
        ("automatic", "i4"),
        ("askers", "i4"),  # bits by position in ASKER_NAMES
        ("urgent", "i4"),  # does not wait for min_ns
    ]
)
ACTION: Final = np.dtype(
    [
        ("value", "f8"),  # where it has no ramp
        ("output", "i4"),  # row of `outputs`
        ("rank", "i4"),  # RANK_INTERLOCK (held) or RANK_SETPOINT (proposed)
        ("segment", "i4"),  # the first of its ramp in `segments`
        ("segments", "i4"),  # 0 = no ramp
        ("pause", "i4"),  # row of the guard that pauses the ramp while it is active, -1 = none
    ],
    align=True,
)
SEGMENT: Final = np.dtype(
    [
        ("to", "f8"),
        ("rate", "f8"),  # units per second, 0 = at once
        ("hold_ns", "i8"),  # how long it stays there before the next segment
    ]
)

# What changes: one row a machine, one an action.
MACHINE_NOW: Final = np.dtype(
    [
        ("since_ns", "i8"),  # engine time of the entry into the mode; 0 = before the first scan
        ("mode", "i4"),  # row of `modes`
        ("before", "i4"),  # the mode before, -1 = none
        ("by", "i4"),  # row of the transition that led here, BY_TIMEOUT or BY_START
        ("request", "i4"),  # row of `modes` that somebody asked for, -1 = none; one scan long
        ("asker", "i4"),  # position in ASKER_NAMES
        ("changed", "?"),  # in the last scan
    ],
    align=True,
)
BY_START: Final = -1
BY_TIMEOUT: Final = -2
RAMP_NOW: Final = np.dtype(
    [
        ("value", "f8"),  # NaN = not started
        ("since_ns", "i8"),  # engine time at which `to` was reached, 0 = on the way
        ("segment", "i4"),  # position in the ramp; equal to `segments` = done
        ("paused", "i4"),
    ]
)
WATCH: Final = np.dtype([("rule", "i4"), ("point", "i4")])  # protective inputs, for the start-up

CELL: Final = np.dtype([("value", "f8"), ("quality", "i8")])

# Words of the engine's memory (int64).
MEMORY_NOW: Final = 0  # the clock at the last scan
MEMORY_TIME: Final = 1  # engine time, starts at 1 and never goes back
MEMORY_STARTUP: Final = 2  # 1 until the first good scan
MEMORY_RESET: Final = 3  # the reset of the last scan, to find its edge
MEMORY_STEP: Final = 4  # how far engine time moved in the last scan
MEMORY_ORDER: Final = 5  # + kind: the last first-out number given
MEMORY_WORDS: Final = MEMORY_ORDER + len(KIND_NAMES)

# One scan counts at most this much time, and engine time stands still from TIME_NS_MAX (146 years)
# on: a clock that leaps can't overflow it.
STEP_NS_MAX: Final = 86_400_000_000_000
TIME_NS_MAX: Final = 2**62
DELAY_S_MAX: Final = 31 * 86_400


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """What people call a rule.

    name       the key in the rules' file, e.g. ``Control/Hydrogen_Fire``
    kind       one of KIND_NAMES
    levels     names that the rule can return; the rule's point shows 0 for none (inactive) and
               1 + the position of the name otherwise
    text       readable infix
    point      index of the rule's own discrete point; of the calculated point
    inputs     indexes of the device and gateway points it reads, directly or through other rules
    term       the condition, or the value, as it was compiled
    spans      (word behind its code, condition or number) of every part that is worth explaining,
               in the order of evaluation; words count from the rule's own start
    suppress   of an alarm: row of the guard that suppresses it by design, -1 = none
    bypass_ns_max  longest bypass that is allowed, 0 = none is
    permits    of a permissive: indexes of the output points that it lets be set
    """

    name: str
    kind: str
    levels: tuple[str, ...]
    text: str
    point: int
    inputs: tuple[int, ...]
    priority: str = ""
    latch: bool = False
    term: Term | None = None
    spans: tuple[tuple[int, Term], ...] = ()
    suppress: int = -1
    bypass_ns_max: int = 0
    permits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TransitionInfo:
    """One row of `transitions` for people; `origin` "*" is any state, `guard` may be empty."""

    origin: str
    target: str
    guard: str
    automatic: bool
    askers: tuple[str, ...]
    urgent: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """What people call a machine of control states.

    name         the key in the file, e.g. ``Stack/Operation``
    states       names; the machine's point shows 1 + the position of the present one
    point        index of the machine's own point, ``States.<name>``; writing it asks for a state
    transitions  in the order of the program's rows
    """

    name: str
    states: tuple[str, ...]
    point: int
    transitions: tuple[TransitionInfo, ...]


@dataclass(frozen=True)
class Program:
    """A compiled site. Every array is contiguous and read only.

    info        (R,) one entry a rule, in the order of evaluation; ``E_Stop`` first
    strings     interned strings; id 0 is null (inactive), names start at 1
    rules       (R,) RULE
    code        (C,) int32 opcodes and operands, all rules behind one another
    consts      (K,) float64
    slots       how many state slots (delays, hysteresis, ...) the code uses
    floats      how many numbers the code keeps (rates, lags, ramps)
    effects     (E,) EFFECT, those of E_Stop first, then in the order of evaluation of their rules
    outputs     (O,) int32 indexes of the output points that effects or start-up drive
    safe        (O,) float64 safe value of each output
    protective  (P,) bool, rows of the point table that trips and interlocks read
    watch       (W,) WATCH, the same as pairs, for the end of the start-up
    machines    (M,) MACHINE    modes (N,) MODE        transitions (T,) TRANSITION
    actions     (A,) ACTION     segments (G,) SEGMENT  machine_info one entry a machine
    shown       (O,) int32 row of the point table that shows each output, 0 = none
    depth       cells of stack that the deepest rule needs
    """

    info: tuple[RuleInfo, ...]
    strings: tuple[str, ...]
    rules: NDArray[np.void]
    code: NDArray[np.int32]
    consts: NDArray[np.float64]
    slots: int
    effects: NDArray[np.void]
    outputs: NDArray[np.int32]
    safe: NDArray[np.float64]
    protective: NDArray[np.bool_]
    watch: NDArray[np.void]
    machines: NDArray[np.void]
    modes: NDArray[np.void]
    transitions: NDArray[np.void]
    actions: NDArray[np.void]
    segments: NDArray[np.void]
    shown: NDArray[np.int32]
    machine_info: tuple[MachineInfo, ...] = ()
    floats: int = 0
    depth: int = 1
