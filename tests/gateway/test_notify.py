"""What the service manager hears, on real sockets."""

from __future__ import annotations

import socket
from pathlib import Path

from gateway.notify import Notifier


def listening(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(address)
    made.setblocking(False)
    return made


def test_lines_are_one_datagram(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listening(path) as heard:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": path})
        assert notifier.tell("READY=1", "WATCHDOG=1")
        assert heard.recv(100) == b"READY=1\nWATCHDOG=1"
        notifier.close()
        notifier.close()


def test_an_abstract_address_begins_with_an_at_sign(tmp_path: Path) -> None:
    name = f"gatepost-{tmp_path.name}"
    with listening("\0" + name) as heard:
        notifier = Notifier("@" + name)
        assert notifier.tell("READY=1")
        assert heard.recv(100) == b"READY=1"
        notifier.close()


def test_without_a_service_manager_nothing_is_said() -> None:
    assert not Notifier.from_environment({}).tell("READY=1")


def test_a_listener_that_is_gone_or_never_was_is_no_error(tmp_path: Path) -> None:
    for address in (str(tmp_path / "nobody"), "vsock:2:1234", "x" * 200, "@" + "y" * 200):
        notifier = Notifier(address)
        assert not notifier.tell("READY=1")
        notifier.close()


def test_a_listener_that_takes_nothing_does_not_hold_up_the_caller(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listening(path):
        notifier = Notifier(path)
        told = [notifier.tell("WATCHDOG=1") for _ in range(10_000)]
        assert told[0] and not told[-1]
        notifier.close()
