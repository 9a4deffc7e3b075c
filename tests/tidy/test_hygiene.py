"""The shared fixtures of tests/conftest.py do what they promise."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable

import psutil

from tests.conftest import children_left

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


def test_a_forgotten_process_is_found_and_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watched = psutil.Process(parent.pid)
        (left,) = children_left(watched, grace_s=0.1)
        assert left.startswith(f"{pid} ")
        assert children_left(watched, grace_s=0.1) == []


def test_free_ports_differ_and_can_be_bound(free_port: Callable[[], int]) -> None:
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == 20
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", ports[0]))
