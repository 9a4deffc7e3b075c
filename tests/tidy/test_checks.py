"""Each check of tests/tidy/checks.py finds a planted violation and lets its cure pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tidy import checks

LONG_BODY = "".join(f"    a{n} = {n}\n" for n in range(checks.FUNCTION_LINES_MAX))

# check, path, what it must find, what it must let pass
PLANTED: list[tuple[Callable[[str, str], list[str]], str, str, str]] = [
    (
        checks.long_functions,
        "config/load.py",
        "def load():\n" + LONG_BODY,
        'def load():\n    """One.\n\n    Two.\n    """\n' + LONG_BODY[: -len("    a59 = 59\n")],
    ),
    (checks.long_files, "config/load.py", "a = 1\n" * 501, "a = 1\n" * 500),
    (
        checks.waiting_in_plain_modules,
        "safety/deep/kernel.py",
        "async def scan(): ...\n",
        "def scan(): ...\n",
    ),
    (
        checks.waiting_in_plain_modules,
        "gateway/scan.py",
        "async def a():\n    await b()\n",
        "def a():\n    b()\n",
    ),
    (
        checks.broad_excepts,
        "sync/store/store.py",
        "try:\n    a()\nexcept Exception:\n    pass\n",
        "try:\n    a()\nexcept OSError:\n    pass\n",
    ),
    (
        checks.broad_excepts,
        "sync/store/store.py",
        "try:\n    a()\nexcept:\n    pass\n",
        "try:\n    a()\nexcept (OSError, ValueError):\n    pass\n",
    ),
    (
        checks.broad_excepts,
        "sync/store/store.py",
        "try:\n    a()\nexcept (OSError, builtins.BaseException):\n    pass\n",
        "a()\n",
    ),
    (
        checks.broad_excepts,
        "sync/store/store.py",
        "with contextlib.suppress(Exception):\n    a()\n",
        "with contextlib.suppress(KeyError):\n    a()\n",
    ),
    (
        checks.broad_excepts,
        "gateway/poll.py",
        "try:\n    a()\nexcept Exception:\n    pass\n" * 2,
        "try:\n    a()\nexcept Exception:\n    pass\n",
    ),
    (
        checks.clock_reads,
        "sync/store/store.py",
        "import time\nstamp = time.time_ns()\n",
        "stamp = clock.utc_ns()\n",
    ),
    (
        checks.clock_reads,
        "sync/store/store.py",
        "from time import monotonic as now\nstamp = now()\n",
        "def now(): ...\nstamp = now()\n",
    ),
    (
        checks.clock_reads,
        "cloud/market.py",
        "from datetime import datetime, UTC\nstamp = datetime.now(UTC)\n",
        "from datetime import datetime, UTC\nstamp = datetime.fromtimestamp(0, UTC)\n",
    ),
    (
        checks.clock_reads,
        "drivers/sim.py",
        "import numpy as np\nnoise = np.random.default_rng(1)\n",
        "noise = clock.random()\n",
    ),
    (
        checks.clock_reads,
        "gateway/poll.py",
        "import asyncio\nstamp = asyncio.get_running_loop().time()\n",
        "stamp = table.time()\n",
    ),
    (checks.clock_reads, "gateway/poll.py", "stamp = self._loop.time()\n", "self._loop.stop()\n"),
    (
        checks.clock_reads,
        "gateway/poll.py",
        "import uuid\nname = uuid.uuid4()\n",
        "import uuid\nname = uuid.UUID(text)\n",
    ),
    (
        checks.unbounded_queues,
        "gateway/link.py",
        "queue = asyncio.Queue()\n",
        "queue = asyncio.Queue(maxsize=QUEUE_MAX)\n",
    ),
    (
        checks.unbounded_queues,
        "gateway/link.py",
        "queue = asyncio.Queue(maxsize=0)\n",
        "queue = asyncio.Queue(8)\n",
    ),
    (
        checks.unbounded_queues,
        "gateway/link.py",
        "ring = collections.deque(rows)\n",
        "ring = collections.deque(rows, maxlen=RING_MAX)\n",
    ),
    (
        checks.missing_docstrings,
        "safety/kernel.py",
        '"""A."""\ndef evaluate(): ...\n',
        '"""A."""\ndef evaluate():\n    """B."""\ndef _inner(): ...\n',
    ),
    (
        checks.missing_docstrings,
        "sync/wire.py",
        '"""A."""\nclass Frame:\n    """B."""\n    def rows(self): ...\n',
        '"""A."""\nclass Frame:\n    """B."""\n    def __len__(self): ...\n',
    ),
    (checks.missing_docstrings, "drivers/modbus/plan.py", "a = 1\n", '"""A."""\na = 1\n'),
    (checks.units_not_last, "config/site.py", "MAX_AGE_NS = 1\n", "AGE_NS_MAX = 1\n"),
    (
        checks.units_not_last,
        "config/site.py",
        "class A:\n    ms_delay: int\n",
        "class A:\n    delay_ms: int\n",
    ),
    (
        checks.units_not_last,
        "config/site.py",
        "def a(max_power_w): ...\n",
        "def a(power_w_max, max_rows): ...\n",
    ),
    (
        checks.units_not_last,
        "config/points.py",
        'A = np.dtype([("ns_utc", "i8")])\n',
        'A = np.dtype([("utc_ns", "i8")])\n',
    ),
    (checks.leftovers, "docs/a.md", "a\nTO" + "DO later\n", "todos los santos\n"),
    (checks.leftovers, "sync/a.py", "raise NotImplemented" + "Error\n", "return NotImplemented\n"),
    (
        checks.machine_traces,
        "requirements.lock",
        "--extra-index" + "-url https://example.org\n",
        "numpy==2.0 --hash=sha256:00\n",
    ),
    (checks.machine_traces, "docs/a.md", "cd /wo" + "rk/main\n", "cd /srv/work/main\n"),
    (checks.machine_traces, "package-lock.json", '"resol' + 'ved": "x"\n', '"version": "1"\n'),
    (checks.machine_traces, "docs/a.md", "/tmp/bash" + "_jobs.0/1\n", "/tmp/gatepost\n"),
    (checks.stripped_asserts, "image/a.service", "python3 -u -" + "O -m a\n", "python3 -u -m a\n"),
    (checks.stripped_asserts, "image/a.service", "PYTHON" + "OPTIMIZE=1\n", "PYTHONUTF8=1\n"),
]


@pytest.mark.parametrize(
    ("check", "path", "bad", "good"), PLANTED, ids=[row[0].__name__ for row in PLANTED]
)
def test_planted(check: checks.Check, path: str, bad: str, good: str) -> None:
    assert check(path, bad), "the violation was not found"
    assert check(path, good) == []


def test_every_check_is_planted() -> None:
    planted = {row[0] for row in PLANTED}
    assert planted == {*checks.PYTHON_CHECKS, *checks.TEXT_CHECKS}


def test_a_rule_holds_only_where_it_applies() -> None:
    assert checks.clock_reads(checks.CLOCK_MODULE, "import time\ntime.time()\n") == []
    assert checks.waiting_in_plain_modules("gateway/local.py", "async def a(): ...\n") == []
    assert checks.missing_docstrings("gateway/local.py", "def a(): ...\n") == []
    assert checks.unbounded_queues("tests/a.py", "queue.Queue()\n") == []


def test_a_finding_names_file_and_line() -> None:
    (finding,) = checks.clock_reads("sync/a.py", "import time\n\ntime.time()\n")
    assert finding.startswith("sync/a.py:3: ")
