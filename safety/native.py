"""The kernel as machine code: compiled by numba once, linked by LLVM alone ever after.

Importing numba and starting its compiler costs a process 100 MB and most of its start-up time,
although nothing is left to compile. So the object code of `safety.kernel.evaluate` is taken out
of numba behind a plain C entry, kept by the caller (gateway/kernel_cache.py), and linked into
later processes without numba. What runs is the same machine code, from the same source.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from config.points import POINT
from safety.layout import (
    ACTION,
    CELL,
    EFFECT,
    MACHINE,
    MACHINE_NOW,
    MODE,
    OUTPUT,
    RAMP_NOW,
    RULE,
    SEGMENT,
    STATE,
    TRANSITION,
    WATCH,
)

# Element types of the arrays of `safety.kernel.evaluate`, in its order.
ARRAYS: Final[tuple[np.dtype[Any], ...]] = tuple(
    np.dtype(kind)
    for kind in (
        *(POINT, RULE, np.int32, np.float64, EFFECT, WATCH),
        *(MACHINE, MODE, TRANSITION, ACTION, SEGMENT),
        *(STATE, np.int64, np.float64, np.int64, OUTPUT, MACHINE_NOW, RAMP_NOW, CELL, np.int32),
    )
)

# numba's wrapper refers to its runtime on the path of a Python exception. The kernel raises none
# and owns no memory, so the names only have to exist.
_NEVER_CALLED: Final = (
    "NRT_Free",
    "NRT_MemInfo_call_dtor",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_unpickle",
)

Evaluate = Callable[..., int]


class MachineCodeError(Exception):
    """The object code is not the kernel of this version; compile it anew."""


@dataclass(frozen=True, slots=True)
class MachineCode:
    """ELF object code and the name of its entry."""

    symbol: str
    code: bytes


def compile_kernel() -> MachineCode:
    """Compile the kernel for the CPU that numba is set to. Takes seconds."""
    from numba import carray, cfunc

    from safety.kernel import evaluate

    @cfunc(_signature(), error_model="numpy")
    def entry(  # type: ignore[no-untyped-def]
        rows,
        rules,
        code,
        consts,
        effects,
        watch,
        machines,
        modes,
        transitions,
        actions,
        segments,
        state,
        slots,
        floats,
        memory,
        outputs,
        machine_now,
        ramp_now,
        cells,
        changed,
        n,
        now_ns,
        reset,
    ):
        return evaluate(
            carray(rows, n[0]),
            carray(rules, n[1]),
            carray(code, n[2]),
            carray(consts, n[3]),
            carray(effects, n[4]),
            carray(watch, n[5]),
            carray(machines, n[6]),
            carray(modes, n[7]),
            carray(transitions, n[8]),
            carray(actions, n[9]),
            carray(segments, n[10]),
            carray(state, n[11]),
            carray(slots, n[12]),
            carray(floats, n[13]),
            carray(memory, n[14]),
            carray(outputs, n[15]),
            carray(machine_now, n[16]),
            carray(ramp_now, n[17]),
            carray(cells, n[18]),
            carray(changed, n[19]),
            now_ns,
            reset != 0,
        )

    return MachineCode(entry._wrapper_name, entry._library._get_compiled_object())


def _signature() -> Any:
    """Pointers to all arrays, one to their sizes, the clock and the reset; gives the count."""
    from numba import types
    from numba.np import numpy_support

    from_dtype: Any = numpy_support.from_dtype  # numba's stub knows fewer types than numba
    pointers = [types.CPointer(from_dtype(kind)) for kind in ARRAYS]
    sizes = types.CPointer(types.int64)
    return types.int64(*pointers, sizes, types.int64, types.int64)


def link(machine_code: MachineCode) -> Evaluate:
    """Object code -> a function with the arguments of `safety.kernel.evaluate`.

    Raises MachineCodeError where the code has no such entry.
    """
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    placeholder = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value
    for name in _NEVER_CALLED:
        binding.add_symbol(name, placeholder)
    target = binding.Target.from_default_triple().create_target_machine()
    linker = binding.create_mcjit_compiler(binding.parse_assembly(""), target)
    try:
        linker.add_object_file(binding.object_file.ObjectFileRef.from_data(machine_code.code))
        linker.finalize_object()
        address = linker.get_function_address(machine_code.symbol)
    except RuntimeError as error:
        raise MachineCodeError(str(error)) from error
    if not address:
        raise MachineCodeError("the object code has no entry of that name")
    return _Linked(linker, address)


class _Linked:
    """The linked kernel. Arrays that stay the same from call to call are looked up once."""

    def __init__(self, linker: Any, address: int) -> None:
        self._linker = linker  # owns the memory that the code lies in
        pointers = [ctypes.c_void_p] * (len(ARRAYS) + 1)
        integers = [ctypes.c_int64, ctypes.c_int64]
        self._call = ctypes.CFUNCTYPE(ctypes.c_int64, *pointers, *integers)(address)
        self._arrays: tuple[Any, ...] = (None,) * len(ARRAYS)
        self._pointers: tuple[ctypes.c_void_p, ...] = ()
        self._sizes = np.zeros(len(ARRAYS), dtype=np.int64)

    def __call__(self, *arguments: Any) -> int:
        if not all(map(operator.is_, self._arrays, arguments)):
            self._take(arguments[: len(ARRAYS)])
        now_ns, reset = arguments[len(ARRAYS) :]
        return int(self._call(*self._pointers, now_ns, reset))

    def _take(self, arrays: tuple[Any, ...]) -> None:
        for array, kind in zip(arrays, ARRAYS, strict=True):
            assert array.dtype == kind and array.ndim == 1 and array.flags.c_contiguous
        self._sizes[:] = [array.shape[0] for array in arrays]
        addresses = [array.ctypes.data for array in (*arrays, self._sizes)]
        self._pointers = tuple(ctypes.c_void_p(address) for address in addresses)
        self._arrays = arrays  # kept alive for as long as their addresses are used
