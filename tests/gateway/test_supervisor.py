"""The supervisor against small programs that crash, hang, refuse and behave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gateway.core.clock import ManualClock
from gateway.core.paths import SOCKET_PATH_BYTES_MAX, StatePaths, default_state_folder
from gateway.supervisor import (
    DELAY_S_MAX,
    Command,
    Supervisor,
    SupervisorError,
    backoff_s,
    how_it_ended,
    site_commands,
)

# Writes what happens to it into a file: "name event". Ends on SIGTERM or when its input ends.
GOOD = """
import os, signal, sys
def note(event):
    with open(sys.argv[1], "a") as log:
        log.write(f"{sys.argv[2]} {event}\\n")
def asked(number, frame):
    note(signal.Signals(number).name)
    sys.exit(0)
signal.signal(signal.SIGTERM, asked)
signal.signal(signal.SIGINT, asked)
note("begin")
sys.stdin.read()
note("parent gone")
"""
# Takes its time to end when the parent is gone, as a process that hands over its last records.
SLOW = GOOD + "import time\ntime.sleep(1.0)\nnote('end')\n"
HANGING = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "a").write(f"{sys.argv[2]} begin\\n")
while True:
    time.sleep(60)
"""
# Says twice that its scans are on time, and then no more.
HEALTHY = GOOD.replace(
    "sys.stdin.read()",
    """
os.write(1, b'.+')
note(os.environ.get("NOTIFY_SOCKET", "told nothing"))
while not os.path.exists(sys.argv[1] + ".more"):
    time.sleep(0.01)
os.write(1, b'+')
sys.stdin.read()
""",
).replace("import os,", "import time, os,")
# Gives two signs of life and then hangs, deaf to SIGTERM.
FREEZING = HANGING.replace(
    "while True:", "print('.', flush=True)\nprint('.', flush=True)\nwhile True:"
)
CRASHING = "import sys; sys.exit(1)"
REFUSING = "import sys; sys.exit(2)"

OUTER = """
import asyncio, json, sys
from pathlib import Path
from gateway.supervisor import Command, Supervisor, run
state, *scripts = sys.argv[1:]
commands = [Command(n, (sys.executable, "-c", s, state + "/../log", n), 5.0)
            for n, s in zip(("field", "link"), scripts)]
sys.exit(asyncio.run(run(Supervisor(Path(state) / "site", Path(state), commands=commands))))
"""


class Bench:
    """Makes supervisors over one state folder and reads what their processes noted."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.log = folder / "log"
        self.lines: list[str] = []
        self.stop = asyncio.Event()
        self.task: asyncio.Task[int] | None = None

    def command(self, name: str, script: str, stop_s: float = 5.0) -> Command:
        return Command(name, (sys.executable, "-c", script, str(self.log), name), stop_s)

    def supervisor(self, *commands: Command, clock: ManualClock | None = None) -> Supervisor:
        return Supervisor(
            self.state.parent / "site",
            self.state,
            commands=commands,
            clock=clock,
            tell=self.lines.append,
        )

    def start(self, supervisor: Supervisor) -> asyncio.Task[int]:
        self.task = asyncio.create_task(supervisor.run(self.stop))
        return self.task

    def noted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    if made.task is not None and not made.task.done():
        made.task.cancel()
        await asyncio.gather(made.task, return_exceptions=True)


async def test_both_processes_run_and_the_field_is_stopped_before_the_link(bench: Bench) -> None:
    supervisor = bench.supervisor(bench.command("field", GOOD), bench.command("link", GOOD))
    task = bench.start(supervisor)
    await until(lambda: len(bench.noted()) == 2)
    pids = [process["pid"] for process in supervisor.status().values()]
    assert all(is_alive(pid) for pid in pids)
    # Sessions of their own: a terminal's Ctrl-C reaches the supervisor alone.
    assert [os.getsid(pid) for pid in pids] == pids

    bench.stop.set()
    assert await task == 0
    assert bench.noted()[2:] == ["field SIGTERM", "link SIGTERM"]
    assert not any(is_alive(pid) for pid in pids)
    assert supervisor.status()["field"] == {"pid": None, "restarts": 0}


async def test_a_killed_process_is_started_again_and_the_other_is_left_alone(bench: Bench) -> None:
    supervisor = bench.supervisor(bench.command("field", GOOD), bench.command("link", GOOD))
    bench.start(supervisor)
    await until(lambda: len(bench.noted()) == 2)
    before = supervisor.status()

    os.kill(before["link"]["pid"], signal.SIGKILL)
    await until(lambda: len(bench.noted()) == 3)
    after = supervisor.status()
    assert after["link"]["pid"] not in (None, before["link"]["pid"])
    assert after["link"]["restarts"] == 1
    assert after["field"] == before["field"]
    assert "link was ended by SIGKILL; starting it again at once (restart 1)" in bench.lines


async def test_a_process_that_crashes_again_and_again_is_held_back(bench: Bench) -> None:
    supervisor = bench.supervisor(bench.command("field", CRASHING), bench.command("link", GOOD))
    task = bench.start(supervisor)
    await until(lambda: supervisor.status()["field"]["restarts"] >= 2)
    ends = [line for line in bench.lines if "exit status 1" in line]
    assert "at once" in ends[0]
    assert "at once" not in ends[1]
    # A stop does not wait for the end of a pause.
    bench.stop.set()
    assert await task == 0


async def test_a_long_life_forgives_earlier_ends(bench: Bench) -> None:
    clock = ManualClock()
    supervisor = bench.supervisor(bench.command("link", GOOD), clock=clock)
    bench.start(supervisor)
    for life in (1, 2):
        await until(lambda life=life: len(bench.noted()) == life)
        clock.advance(61_000_000_000)
        os.kill(supervisor.status()["link"]["pid"], signal.SIGKILL)
        await until(lambda life=life: supervisor.status()["link"]["restarts"] == life)
    assert [line for line in bench.lines if "at once (restart 2)" in line]


async def test_a_refused_configuration_stops_everything_with_status_2(bench: Bench) -> None:
    supervisor = bench.supervisor(bench.command("field", REFUSING), bench.command("link", GOOD))
    async with asyncio.timeout(20):
        assert await bench.start(supervisor) == 2
    assert "field refuses its configuration (see above); not started again" in bench.lines
    assert supervisor.status() == {
        "field": {"pid": None, "restarts": 0},
        "link": {"pid": None, "restarts": 0},
    }


async def test_a_process_that_does_not_stop_is_killed(bench: Bench) -> None:
    supervisor = bench.supervisor(
        bench.command("field", HANGING, stop_s=0.2), bench.command("link", GOOD)
    )
    task = bench.start(supervisor)
    await until(lambda: len(bench.noted()) == 2)
    pid = supervisor.status()["field"]["pid"]
    bench.stop.set()
    async with asyncio.timeout(20):
        assert await task == 0
    assert not is_alive(pid)
    assert "field did not end within 0.2 s; killing it" in bench.lines


async def test_a_program_that_is_not_there_is_told_and_tried_again(bench: Bench) -> None:
    supervisor = bench.supervisor(Command("field", ("/nowhere/gatepost-field",), 1.0))
    bench.start(supervisor)
    await until(lambda: supervisor.status()["field"]["restarts"] >= 1)
    assert any("/nowhere/gatepost-field" in line for line in bench.lines)
    assert any("field could not be started" in line for line in bench.lines)


async def test_a_second_instance_is_refused_with_folder_and_pid(bench: Bench) -> None:
    bench.start(bench.supervisor(bench.command("field", GOOD)))
    await until(bench.noted)
    second = bench.supervisor(bench.command("field", GOOD))
    with pytest.raises(SupervisorError, match=f"{bench.state} is in use .*pid {os.getpid()}"):
        await second.run(asyncio.Event())
    assert bench.noted() == ["field begin"]


async def test_another_site_with_another_state_folder_is_another_instance(
    bench: Bench, tmp_path: Path
) -> None:
    first = bench.supervisor(bench.command("field", GOOD))
    bench.start(first)
    await until(bench.noted)
    stop = asyncio.Event()
    other = Supervisor(tmp_path / "other", tmp_path / "b", commands=(bench.command("link", GOOD),))
    task = asyncio.create_task(other.run(stop))
    await until(lambda: "link begin" in bench.noted())
    stop.set()
    assert await task == 0


@pytest.mark.parametrize("holder", [b"", b"no json", b"[1]", b'{"supervisor": "x"}'])
async def test_a_damaged_lock_file_is_no_obstacle(bench: Bench, holder: bytes) -> None:
    bench.state.mkdir()
    (bench.state / "lock").write_bytes(holder)
    task = bench.start(bench.supervisor(bench.command("field", GOOD)))
    # The child may speak before its supervisor has written who it is.
    await until(lambda: b'"field"' in (bench.state / "lock").read_bytes())
    written = json.loads((bench.state / "lock").read_text())
    assert written["supervisor"] == os.getpid()
    assert is_alive(written["field"])
    bench.stop.set()
    assert await task == 0


async def test_a_state_folder_that_can_t_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    supervisor = Supervisor(Path(), tmp_path / "file" / "state", commands=())
    with pytest.raises(SupervisorError, match=r"file/state can't be used: .*--state"):
        await supervisor.run(asyncio.Event())


async def test_a_cancelled_supervisor_leaves_no_process(bench: Bench) -> None:
    supervisor = bench.supervisor(bench.command("field", HANGING), bench.command("link", GOOD))
    task = bench.start(supervisor)
    await until(lambda: len(bench.noted()) == 2)
    pids = [process["pid"] for process in supervisor.status().values()]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not any(is_alive(pid) for pid in pids))


# -- a supervisor in a process of its own ------------------------------------------------------


@contextlib.asynccontextmanager
async def outer(bench: Bench, *scripts: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", OUTER, str(bench.state), *scripts], stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_killed_supervisor_takes_its_processes_with_it(bench: Bench) -> None:
    async with outer(bench, GOOD, GOOD) as process:
        await until(lambda: len(bench.noted()) == 2)
        holders = json.loads((bench.state / "lock").read_text())
        process.kill()
        await until(lambda: len(bench.noted()) == 4)
        assert sorted(bench.noted()[2:]) == ["field parent gone", "link parent gone"]
        await until(lambda: not is_alive(holders["field"]) and not is_alive(holders["link"]))


async def test_the_next_supervisor_waits_for_what_a_killed_one_left(bench: Bench) -> None:
    async with outer(bench, SLOW) as process:
        await until(lambda: len(bench.noted()) == 1)
        process.kill()
        process.wait()
        task = bench.start(bench.supervisor(bench.command("link", GOOD)))
        await until(lambda: "link begin" in bench.noted())
    assert bench.noted() == ["field begin", "field parent gone", "field end", "link begin"]
    assert "waiting for the processes of a gatepost that was killed" in bench.lines
    bench.stop.set()
    assert await task == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_supervisor_in_order_with_status_0(
    bench: Bench, number: signal.Signals
) -> None:
    async with outer(bench, GOOD, GOOD) as process:
        await until(lambda: len(bench.noted()) == 2)
        process.send_signal(number)
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert bench.noted()[2:] == ["field SIGTERM", "link SIGTERM"]


async def test_a_second_signal_kills(bench: Bench) -> None:
    async with outer(bench, HANGING, HANGING) as process:
        await until(lambda: len(bench.noted()) == 2)
        holders = json.loads((bench.state / "lock").read_text())
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert not is_alive(holders["field"])
        assert not is_alive(holders["link"])


# -- what decides ------------------------------------------------------------------------------


def test_the_first_restart_is_at_once_and_later_ones_wait_longer() -> None:
    assert [backoff_s(failures, 0.5) for failures in range(7)] == [0, 1, 2, 4, 8, 10, 10]
    assert backoff_s(10_000, 0.99) == DELAY_S_MAX
    assert 0.8 <= backoff_s(1, 0.0) < backoff_s(1, 0.999) <= 1.2


def test_an_end_is_told_in_words() -> None:
    assert how_it_ended(3) == "ended with exit status 3"
    assert how_it_ended(-15) == "was ended by SIGTERM"
    assert how_it_ended(-200) == "was ended by signal 200"


def test_field_and_link_get_the_site_the_state_folder_and_the_pipe() -> None:
    field, link = site_commands(Path("site"), Path("/state"))
    assert (field.name, link.name) == ("field", "link")
    assert field.arguments[1:] == (
        *("-m", "gateway.field", "site", "--state", "/state", "--parent-pipe"),
    )
    assert "gateway.link" in link.arguments


# -- paths -------------------------------------------------------------------------------------


def test_a_state_folder_holds_everything_of_its_site(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "s")
    paths.make()
    paths.make()
    assert paths.field_socket == tmp_path / "s" / "field.sock"
    assert paths.logs.is_dir()
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_a_socket_whose_path_is_too_long_moves_to_the_temporary_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 40)
    first, again, other = StatePaths(deep), StatePaths(deep), StatePaths(deep / "b")
    assert len(os.fsencode(first.field_socket)) <= SOCKET_PATH_BYTES_MAX
    assert first.field_socket == again.field_socket
    assert first.field_socket != other.field_socket
    assert first.store.parent == deep


def test_the_state_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEPOST_STATE", "/a")
    assert default_state_folder("soec") == Path("/a/soec")
    monkeypatch.delenv("GATEPOST_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", "/b")
    assert default_state_folder("soec") == Path("/b/gatepost/soec")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/x")
    assert default_state_folder("soec") == Path("/home/x/.local/state/gatepost/soec")


@pytest.mark.parametrize(
    ("site", "folder"), [("../up", "up"), ("a/b", "a-b"), ("..", "site"), ("Anlage 1", "Anlage-1")]
)
def test_a_site_s_name_never_leaves_the_state_folder(
    monkeypatch: pytest.MonkeyPatch, site: str, folder: str
) -> None:
    monkeypatch.setenv("GATEPOST_STATE", "/a")
    assert default_state_folder(site) == Path("/a") / folder


async def test_a_process_that_gives_no_more_signs_of_life_is_killed_and_started_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.supervisor.HANG_S", 0.3)
    bench.start(bench.supervisor(bench.command("field", FREEZING)))
    await until(lambda: bench.noted().count("field begin") >= 2)
    assert any("field hangs: no sign of life" in line for line in bench.lines)


async def test_a_process_that_never_gave_one_is_left_to_start_in_peace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.supervisor.HANG_S", 0.1)
    bench.start(bench.supervisor(bench.command("field", GOOD)))
    await until(bench.noted)
    await asyncio.sleep(0.5)
    assert bench.noted() == ["field begin"]
    assert not any("hangs" in line for line in bench.lines)


async def test_the_service_manager_hears_from_the_supervisor_what_the_field_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(bench.log.parent / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        heard.setblocking(False)
        loop = asyncio.get_running_loop()
        task = bench.start(bench.supervisor(bench.command("field", HEALTHY)))
        async with asyncio.timeout(20):
            assert await loop.sock_recv(heard, 100) == b"READY=1\nWATCHDOG=1"
            Path(f"{bench.log}.more").touch()
            assert await loop.sock_recv(heard, 100) == b"WATCHDOG=1"
            bench.stop.set()
            assert await loop.sock_recv(heard, 100) == b"STOPPING=1"
            assert await task == 0
    assert "field told nothing" in bench.noted()  # a child that spoke would not be believed


async def test_signs_of_life_alone_are_not_passed_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(bench.log.parent / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    lives = GOOD.replace("sys.stdin.read()", "os.write(1, b'..')\nnote('lives')\nsys.stdin.read()")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        heard.setblocking(False)
        task = bench.start(bench.supervisor(bench.command("field", lives)))
        await until(lambda: "field lives" in bench.noted())
        bench.stop.set()
        assert await task == 0
        assert heard.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize(("usec", "said"), [("500000", True), ("30000000", False), ("x", False)])
async def test_a_service_manager_without_patience_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, usec: str, said: bool
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    bench.stop.set()
    await bench.start(bench.supervisor(bench.command("field", GOOD)))
    assert any("too short" in line for line in bench.lines) == said
