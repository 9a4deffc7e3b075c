"""Opening a serial port beside the event loop.

`open` of a USB adapter can take seconds where its firmware hangs, and the loop has trips to watch.
"""

from __future__ import annotations

import asyncio
import termios
import threading
from typing import Final

from pymodbus.transport import ModbusProtocol
from pymodbus.transport.serialtransport import SerialTransport

from drivers.modbus.rtu_frame import BYTESIZE, LineSettings

OPEN_ERRORS: Final = (OSError, ValueError, OverflowError, termios.error)


class PortOpener:
    """Opens the port of one line, in one thread at a time."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()  # no opening is under way
        self._ended.set()

    async def open(self, protocol: ModbusProtocol, settings: LineSettings) -> None:
        """Open the port and give it to `protocol`, whose `connection_made` is called soon.

        It can be cancelled at any time: a port that is opened too late is closed again, and the
        next opening waits for that. Raises OPEN_ERRORS.
        """
        await self._ended.wait()
        opened = self._begin(protocol, settings)
        try:
            transport = await opened
        except asyncio.CancelledError:
            if not opened.cancelled() and opened.exception() is None:  # in this very moment
                opened.result().sync_serial.close()
            raise
        protocol.transport = transport
        asyncio.get_running_loop().call_soon(transport.setup)

    def _begin(
        self, protocol: ModbusProtocol, settings: LineSettings
    ) -> asyncio.Future[SerialTransport]:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[SerialTransport] = loop.create_future()

        def deliver(transport: SerialTransport | None, error: Exception | None) -> None:
            self._ended.set()
            if opened.cancelled():
                if transport is not None:
                    transport.sync_serial.close()
            elif transport is None:
                opened.set_exception(error or OSError("the port was not opened"))
            else:
                opened.set_result(transport)

        def work() -> None:
            transport, failed = None, None
            try:
                transport = SerialTransport(
                    loop, protocol, settings.port, settings.baudrate, BYTESIZE, settings.parity,
                    settings.stopbits, timeout=0,
                )  # fmt: skip
            except OPEN_ERRORS as error:
                failed = error
            try:
                loop.call_soon_threadsafe(deliver, transport, failed)
            except RuntimeError:  # the loop has ended meanwhile
                if transport is not None:
                    transport.sync_serial.close()

        # A daemon: a thread that hangs in `open` must not keep the process from ending.
        self._ended.clear()
        threading.Thread(target=work, name=f"open {settings.port}", daemon=True).start()
        return opened
