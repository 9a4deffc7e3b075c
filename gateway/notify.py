"""Telling the service manager that the gateway is up and its scans are on time."""

from __future__ import annotations

import socket
from collections.abc import Mapping


class Notifier:
    """Speaks to systemd as sd_notify(3) describes: datagrams to the socket it names."""

    def __init__(self, address: str = "") -> None:
        """`address` is what ``NOTIFY_SOCKET`` holds; without one nothing is said."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Notifier:
        """The one that the service manager gave this process."""
        return cls(environment.get("NOTIFY_SOCKET", ""))

    def tell(self, *lines: str) -> bool:
        """Send one datagram; False where nobody listens. It never waits."""
        if not self._address:
            return False
        try:
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
                )
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket; may be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
