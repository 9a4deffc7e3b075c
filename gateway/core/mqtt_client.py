"""The MQTT library's client, mended where it loses a cancellation or mistakes a connection."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, TypeVar

import aiomqtt

T = TypeVar("T")


class MqttClient(aiomqtt.Client):
    """aiomqtt's client; use it in place of that."""

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:
        """The library waits with `asyncio.wait_for`.

        Before Python 3.12 that keeps a cancellation to itself where the answer comes at the same
        moment: the task goes on, and whoever cancelled it waits for ever (bugs.python.org/37658).
        """
        limit_s = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(None if limit_s == math.inf else limit_s):
                return await fut
        except TimeoutError:
            raise aiomqtt.MqttError("Operation timed out") from None

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        """Called on the loop, or on the thread that connects.

        When the loop gets to it, the connection may have ended, and its descriptor may be another
        connection's; the library would take that one's place.
        """

        def write() -> None:
            try:
                client.loop_write()
            except (OSError, ValueError) as error:
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        def register() -> None:
            if sock.fileno() != -1:
                self._loop.add_writer(sock.fileno(), write)

        self._loop.call_soon_threadsafe(register)
