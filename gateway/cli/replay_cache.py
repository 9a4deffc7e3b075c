"""Keeps the machine code of the replay's loop from one command to the next."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any, Final

from numba.core.caching import FunctionCache

import config
import safety
from gateway import kernel_cache
from safety import replay_kernel

_CONSTANTS: Final = ("points.py", "status.py")  # of config; the machine code holds their numbers
# What a damaged file ends in.
_DAMAGED: Final = (
    *(OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError),
    *(LookupError, AttributeError, ImportError, MemoryError),
)


def keep() -> None:
    """From now on the loop is loaded where it was compiled before, in place of 5 s of compiling.

    It stands beside the kernel's machine code. Where nothing can be written, it is compiled anew
    each time.
    """
    import numba

    folder = kernel_cache.folder() / f"replay-{_digest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    for old in folder.parent.glob("replay-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        # numba's own `cache=True` looks at the time of one file only, and the rules' kernel, which
        # is compiled into the loop, stands in others.
        replay_kernel.run._cache = _Kept(replay_kernel.run.py_func)
    except RuntimeError:
        return  # a folder that can't be written
    finally:
        numba.config.CACHE_DIR = before


class _Kept(FunctionCache):
    """numba's cache of one function, which never ends a command."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was kept; None where there is nothing, or it is damaged."""
        try:
            return super().load_overload(sig, target_context)
        except _DAMAGED:
            with contextlib.suppress(OSError):
                self.flush()  # its index may be what is damaged
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep it; on a full disk not."""
        with contextlib.suppress(*_DAMAGED):
            super().save_overload(sig, data)


def _digest() -> str:
    """Changes with every source that the machine code is made from."""
    files = sorted(Path(safety.__path__[0]).glob("*.py"))
    files += [Path(config.__path__[0]) / name for name in _CONSTANTS]
    return hashlib.sha256(b"|".join(file.read_bytes() for file in files)).hexdigest()[:16]
