"""The house's habits as pure functions: a path and a text in, findings out.

Every check takes the path as it stands in the repository (with slashes) and the text of the file,
and returns one line a finding. None of them reads a file, so tests/tidy/test_checks.py can plant a
violation in each: a check that can't fail is worthless.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

PACKAGES = ("config", "drivers", "safety", "gateway", "sync", "cloud", "image")

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 500

# These decide and never wait (style rule 1).
PLAIN_MODULES = (
    "gateway/scan.py",
    "gateway/commands.py",
    "drivers/codec.py",
    "drivers/modbus/decoder.py",
    "drivers/modbus/plan.py",
    "sync/wire.py",
    "safety/",
)

# Pure, numeric or shared with strangers: every public name says what it takes and gives.
DOCUMENTED_MODULES = (
    "safety/",
    "drivers/codec.py",
    "drivers/modbus/decoder.py",
    "drivers/modbus/plan.py",
    "sync/wire.py",
)

# The supervisors: one broad except each, which counts and reports (style rule 8).
BROAD_EXCEPTS_MAX = {
    "gateway/poll.py": 1,
    "gateway/history.py": 1,
    "gateway/link.py": 1,
    "gateway/opcua/monitoring/subscriptions.py": 1,
    "gateway/opcua/transport/connection.py": 1,
    "gateway/opcua/transport/requests.py": 1,
    "gateway/supervisor.py": 1,
}

CLOCK_MODULE = "gateway/core/clock.py"

Check = Callable[[str, str], list[str]]
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache(maxsize=4)
def _nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(source)))


def _in_package(path: str) -> bool:
    return path.partition("/")[0] in PACKAGES and path.endswith(".py")


def _under(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or (place[-1] == "/" and path.startswith(place)) for place in places)


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression; a call inside it as `a().b`; '' for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    if isinstance(node, ast.Call):
        base = _dotted(node.func)
        return f"{base}()" if base else ""
    return ""


def _aliases(nodes: tuple[ast.AST, ...]) -> dict[str, str]:
    """Local name -> full name of everything the file imports."""
    names = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _full_name(node: ast.expr, aliases: dict[str, str]) -> str:
    first, dot, rest = _dotted(node).partition(".")
    bare = first.removesuffix("()")
    return aliases.get(bare, bare) + first[len(bare) :] + dot + rest


# -- size ------------------------------------------------------------------------------------


def long_functions(path: str, source: str) -> list[str]:
    """Functions of more than 60 lines; the docstring doesn't count."""
    found = []
    for node in _nodes(source):
        if isinstance(node, AnyFunction):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                doc = node.body[0]
                lines -= (doc.end_lineno or doc.lineno) - doc.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                found.append(
                    f"{path}:{node.lineno}: {node.name} has {lines} lines, "
                    f"{FUNCTION_LINES_MAX} are allowed"
                )
    return found


def long_files(path: str, source: str) -> list[str]:
    """Files of more than 500 lines."""
    lines = len(source.splitlines())
    if lines <= FILE_LINES_MAX:
        return []
    return [f"{path}: {lines} lines, {FILE_LINES_MAX} are allowed"]


# -- who may wait, who may swallow -------------------------------------------------------------

_WAITING = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)


def waiting_in_plain_modules(path: str, source: str) -> list[str]:
    """`async` or `await` where everything must run to completion."""
    if not _under(path, PLAIN_MODULES):
        return []
    return [
        f"{path}:{node.lineno}: {type(node).__name__} in a module that decides and never waits"
        for node in _nodes(source)
        if isinstance(node, _WAITING)
    ]


def _is_broad(node: ast.expr | None) -> bool:
    if node is None:
        return True
    if isinstance(node, ast.Tuple):
        return any(_is_broad(part) for part in node.elts)
    return _dotted(node).rpartition(".")[2] in ("Exception", "BaseException")


def _broad_excepts(nodes: tuple[ast.AST, ...]) -> Iterator[int]:
    for node in nodes:
        if (isinstance(node, ast.ExceptHandler) and _is_broad(node.type)) or (
            isinstance(node, ast.Call)
            and _dotted(node.func).rpartition(".")[2] == "suppress"
            and any(_is_broad(argument) for argument in node.args)
        ):
            yield node.lineno


def broad_excepts(path: str, source: str) -> list[str]:
    """`except:`, `except Exception`, `suppress(Exception)` outside the supervisors."""
    lines = sorted(_broad_excepts(_nodes(source)))
    allowed = BROAD_EXCEPTS_MAX.get(path, 0)
    if len(lines) <= allowed:
        return []
    return [f"{path}:{line}: broad except; {allowed} allowed in this file" for line in lines]


# -- ambient inputs --------------------------------------------------------------------------

_AMBIENT = re.compile(
    r"(time\.(time|monotonic|perf_counter|process_time|thread_time|clock_gettime)(_ns)?"
    r"|time\.(sleep|localtime|gmtime|ctime|strftime|asctime)"
    r"|datetime\.(datetime|date)\.(now|utcnow|today)"
    r"|random\.\w+(\.\w+)*"
    r"|secrets\.\w+"
    r"|uuid\.uuid[147]"
    r"|os\.(urandom|getrandom)"
    r"|(numpy|np)\.random(\.\w+)*"
    r"|(.*\.)?(loop|get_running_loop\(\)|get_event_loop\(\)|_loop)\.time)"
)


def clock_reads(path: str, source: str) -> list[str]:
    """Time, chance and identity taken from the machine anywhere but in the clock."""
    if not _in_package(path) or path == CLOCK_MODULE:
        return []
    nodes = _nodes(source)
    aliases = _aliases(nodes)
    found = []
    for node in nodes:
        if isinstance(node, ast.Call):
            name = _full_name(node.func, aliases)
            if _AMBIENT.fullmatch(name):
                found.append(f"{path}:{node.lineno}: {name}() is read outside {CLOCK_MODULE}")
    return found


# -- limits ----------------------------------------------------------------------------------

_QUEUES = ("Queue", "LifoQueue", "PriorityQueue", "SimpleQueue")


def _argument(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    for given in call.keywords:
        if given.arg == keyword:
            return given.value
    return call.args[position] if len(call.args) > position else None


def _is_nothing(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value in (0, None))


def unbounded_queues(path: str, source: str) -> list[str]:
    """Queues and deques that can grow without end."""
    if not _in_package(path):
        return []
    found = []
    for node in _nodes(source):
        if isinstance(node, ast.Call):
            kind = _dotted(node.func).rpartition(".")[2]
            if kind in _QUEUES and _is_nothing(_argument(node, 0, "maxsize")):
                found.append(f"{path}:{node.lineno}: {kind} without a limit")
            if kind == "deque" and _is_nothing(_argument(node, 1, "maxlen")):
                found.append(f"{path}:{node.lineno}: deque without a limit")
    return found


# -- words -----------------------------------------------------------------------------------


def missing_docstrings(path: str, source: str) -> list[str]:
    """Public modules, classes, functions and methods without a docstring, where all need one."""
    if not _under(path, DOCUMENTED_MODULES):
        return []
    tree = ast.parse(source)
    found = []
    if ast.get_docstring(tree) is None and tree.body:
        found.append(f"{path}: the module has no docstring")

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, AnyFunction | ast.ClassDef) and not node.name.startswith("_"):
                if ast.get_docstring(node) is None:
                    found.append(f"{path}:{node.lineno}: {prefix}{node.name} has no docstring")
                if isinstance(node, ast.ClassDef):
                    look(node.body, f"{node.name}.")

    look(tree.body, "")
    return found


_UNITS = frozenset(
    "ns us ms s min h hz khz v mv kv a ma ka w kw mw gw wh kwh mwh var kvar va kva ohm "
    "degc celsius kelvin bar mbar pa kpa pct percent ppm bytes kib mib gib eur".split()
)
# Units that are no words of their own: wherever they stand, they are the unit.
_CLEAR_UNITS = frozenset("ns us ms hz khz kw wh kwh mwh kvar kva degc".split())
_QUALIFIERS = frozenset(
    "max min mean avg sum total limit last first next prev old new start end p50 p90 p95 p99 "
    "worst best low high default lo hi by per col i k".split()
)


def _unit_fault(name: str) -> str:
    words = name.lower().strip("_").split("_")
    if len(words) < 2:
        return ""
    if words[0] in ("max", "min") and words[-1] in _UNITS and len(words) > 2:
        return f"say {'_'.join([*words[1:], words[0]])}"
    for position, word in enumerate(words[:-1]):
        after = words[position + 1 :]
        if word in _CLEAR_UNITS and not all(
            later in _QUALIFIERS or later in _UNITS or later.isdigit() for later in after
        ):
            return f"unit '{word}' stands before '{after[0]}'"
    return ""


def _declared_names(nodes: tuple[ast.AST, ...]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.lineno, node.target.id
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id.isupper():
                    yield node.lineno, target.id
        elif isinstance(node, ast.Call) and _dotted(node.func).rpartition(".")[2] == "dtype":
            for part in ast.walk(node):
                if isinstance(part, ast.Tuple) and part.elts:
                    field = part.elts[0]
                    if isinstance(field, ast.Constant) and isinstance(field.value, str):
                        yield field.lineno, field.value


def units_not_last(path: str, source: str) -> list[str]:
    """Fields, arguments and constants whose unit or qualifier isn't at the end.

    `power_w`, `delay_ms`, `age_ns_max`; never `ms_delay` or `max_age_ns`.
    """
    if not _in_package(path):
        return []
    faults = ((line, name, _unit_fault(name)) for line, name in _declared_names(_nodes(source)))
    return [f"{path}:{line}: {name}: {fault}" for line, name, fault in faults if fault]


# The words are put together here so that this file doesn't hold them.
_LEFTOVER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]) + r")\b")
_UNWRITTEN = "NotImplemented" + "Error"


def leftovers(path: str, source: str) -> list[str]:
    """Notes to oneself and code that isn't there yet."""
    found = []
    for number, line in enumerate(source.splitlines(), start=1):
        note = _LEFTOVER.search(line)
        if note:
            found.append(f"{path}:{number}: {note[0]} left over")
        if _UNWRITTEN in line:
            found.append(f"{path}:{number}: {_UNWRITTEN} left over")
    return found


# -- what must not travel --------------------------------------------------------------------

_MACHINE = {
    "a package index": re.compile(
        r"(?<!no-emit-)((extra-)?index" + r"-url|find" + r"-links)\b|pypi\.org/" + r"simple"
        r"|registry\.npmjs" + r"\.org|deb\.debian" + r"\.org",
        re.IGNORECASE,
    ),
    "a path of one machine": re.compile(
        r"(?<![\w.~}-])/(wo" + r"rk|opt/py" + r"pi|opt/whe" + r"els)/"
    ),
    "a folder of one session": re.compile("bash" + "_jobs"),
    "a download address in an npm lock": re.compile('"resol' + 'ved":'),
}


def machine_traces(path: str, source: str) -> list[str]:
    """Indexes, addresses and paths that are true on one machine only."""
    return [
        f"{path}:{number}: names {what}"
        for number, line in enumerate(source.splitlines(), start=1)
        for what, pattern in _MACHINE.items()
        if pattern.search(line)
    ]


_STRIPPED = re.compile(r"\bpython[\d.]*\s+(-\w+\s+)*-O" + r"O?\b|PYTHON" + "OPTIMIZE")


def stripped_asserts(path: str, source: str) -> list[str]:
    """Anything that would start Python without its asserts."""
    return [
        f"{path}:{number}: asserts must stay on"
        for number, line in enumerate(source.splitlines(), start=1)
        if _STRIPPED.search(line)
    ]


PYTHON_CHECKS: tuple[Check, ...] = (
    long_functions,
    long_files,
    waiting_in_plain_modules,
    broad_excepts,
    clock_reads,
    unbounded_queues,
    missing_docstrings,
    units_not_last,
)
TEXT_CHECKS: tuple[Check, ...] = (leftovers, machine_traces, stripped_asserts)
