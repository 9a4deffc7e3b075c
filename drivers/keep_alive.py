"""What every driver over TCP asks of its connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Lets the system find a dead peer of an idle connection; nothing where it can't."""
    raw = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
