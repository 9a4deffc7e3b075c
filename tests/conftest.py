"""Shared hygiene: every process a test starts is ended by it, every port is free and on loopback.

Anything that knows a part of Gatepost lives in that part's own test folder.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import psutil
import pytest

# Helpers of the interpreter itself that live as long as the run does.
KEPT_COMMANDS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def children_left(parent: psutil.Process, grace_s: float) -> list[str]:
    """Descendants of `parent` that don't end within `grace_s`, as 'pid command line'.

    They are killed before this returns, so that a forgotten broker can't hold up the machine.
    """
    alive = []
    for child in parent.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(child.cmdline())
            if not any(kept in command for kept in KEPT_COMMANDS):
                alive.append((child, f"{child.pid} {command}"))
    _, still = psutil.wait_procs([child for child, _ in alive], timeout=grace_s)
    for child in still:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(still, timeout=grace_s)
    return [text for child, text in alive if child in still]


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fails the run when a test left a process behind."""
    yield
    left = children_left(psutil.Process(), grace_s=5.0)
    assert not left, "processes that tests started and never ended:\n  " + "\n  ".join(left)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Call it for a port that nothing listens on at 127.0.0.1; each call gives another one.

    Somebody else may take the port before the test does: a server that can bind port 0 and tell
    what it got should do that instead.
    """
    drawn: set[int] = set()

    def draw() -> int:
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            if port not in drawn:
                drawn.add(port)
                return port

    return draw
