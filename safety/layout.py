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

# Ranks of a protective demand on an output, as in DESIGN section 4.
RANK_NONE: Final = 0
RANK_INTERLOCK: Final = 1
RANK_TRIP: Final = 2

CAUSE_NONE: Final = -1
CAUSE_STARTUP: Final = -2  # the start-up trip: no good scan yet

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
KIND_NAMES: Final = ("alarm", "state", "interlock", "trip", "value")

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
OP_LIMIT: Final = 4  # which point const              push `point <which> const`
OP_LIMIT_HYST: Final = 5  # which point const slot const  the same with hysteresis
OP_NOT: Final = 10  # 1 -> 1
OP_TRUTH: Final = 11  # 1 -> 1           0 stays 0, everything else becomes 1
OP_QUALITY: Final = 12  # 1 -> 1         0, 1 or 2
OP_DELAY: Final = 13  # slot const       1 -> 1, on-delay
OP_AND: Final = 14  # 2 -> 1
OP_OR: Final = 15  # 2 -> 1
OP_VOTE: Final = 16  # m n degrade       n -> 1
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
OP_LOGIC_FROM: Final = OP_NOT
OP_NUMBER_FROM: Final = OP_NEG

# Comparisons: the operand `which` is the set of outcomes that count as true.
COMPARE_LT: Final = 1
COMPARE_EQ: Final = 2
COMPARE_GT: Final = 4
COMPARE_LE: Final = COMPARE_LT | COMPARE_EQ
COMPARE_GE: Final = COMPARE_GT | COMPARE_EQ
COMPARE_NE: Final = COMPARE_LT | COMPARE_GT

RULE: Final = np.dtype(
    [
        ("start", "i4"),  # first word of its code
        ("stop", "i4"),  # one behind its last word
        ("kind", "i4"),
        ("on_bad", "i4"),
        ("level_true", "i4"),  # string id of a true condition; 0 = the code gives the string id
        ("level_first", "i4"),  # first declared level: what a rule takes when it trips on bad
        ("latch", "i4"),
        ("point", "i4"),  # of a calculated value: the row of the point table that it writes
        ("on_delay_ns", "i8"),
        ("off_delay_ns", "i8"),
    ]
)

STATE: Final = np.dtype(
    [
        ("since_ns", "i8"),  # engine time since when a change is pending, 0 = none is
        ("level", "i4"),  # what the rule shows: string id, 0 = inactive
        ("condition", "i4"),  # the level behind the delays and before the latch
        ("pending", "i4"),  # the level that a state is about to take
        ("first_out", "i4"),
        ("quality", "i4"),  # of the last result; travels with alarm(name) and state(name)
        ("active", "?"),
        ("latched", "?"),
        ("seen", "?"),  # the rule had a usable result once
        ("spare", "?"),
    ]
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
        ("value", "f8"),  # the demand, NaN = none
        ("rank", "i4"),
        ("cause", "i4"),  # row of `rules`, CAUSE_NONE or CAUSE_STARTUP
    ]
)

CELL: Final = np.dtype([("value", "f8"), ("quality", "i8")])

# Words of the engine's memory (int64).
MEMORY_NOW: Final = 0  # the clock at the last scan
MEMORY_TIME: Final = 1  # engine time, starts at 1 and never goes back
MEMORY_STARTUP: Final = 2  # 1 until the first good scan
MEMORY_RESET: Final = 3  # the reset of the last scan, to find its edge
MEMORY_ORDER: Final = 4  # + kind: the last first-out number given
MEMORY_WORDS: Final = MEMORY_ORDER + len(KIND_NAMES)

# One scan counts at most this much time: a clock that leaps can't overflow the engine's own.
STEP_NS_MAX: Final = 86_400_000_000_000
DELAY_S_MAX: Final = 31 * 86_400


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """What people call a rule.

    name       the key in the rules' file, e.g. ``Control/Hydrogen_Fire``
    kind       ``alarm``, ``state``, ``interlock``, ``trip`` or ``value``
    levels     names that the rule can return; the rule's point shows 0 for none (inactive) and
               1 + the position of the name otherwise
    text       readable infix
    point      index of the rule's own discrete point; of the calculated point
    inputs     indexes of the device and gateway points it reads, directly or through other rules
    """

    name: str
    kind: str
    levels: tuple[str, ...]
    text: str
    point: int
    inputs: tuple[int, ...]
    priority: str = ""
    latch: bool = False


@dataclass(frozen=True)
class Program:
    """A compiled site. Every array is contiguous and read only.

    info        (R,) one entry a rule, in the order of evaluation; ``E_Stop`` first
    strings     interned strings; id 0 is null (inactive), names start at 1
    rules       (R,) RULE
    code        (C,) int32 opcodes and operands, all rules behind one another
    consts      (K,) float64
    slots       how many state slots (delays, hysteresis, ...) the code uses
    effects     (E,) EFFECT, in the order of evaluation of their rules
    outputs     (O,) int32 indexes of the output points that effects or start-up drive
    safe        (O,) float64 safe value of each output
    protective  (P,) bool, rows of the point table that trips and interlocks read
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
    depth: int = 1
