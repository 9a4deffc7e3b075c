"""Units on a serial line that speak Modbus RTU, over arrays of registers and bits.

Sources: MODBUS over Serial Line V1.02 (frames, silences); the functions are those of
drivers/sim/modbus_server.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from drivers.modbus.rtu_frame import ADU_BYTES, crc16, frame
from drivers.sim.faults import Faults
from drivers.sim.modbus_server import ILLEGAL_ADDRESS, ModbusServer, RegisterBank
from drivers.sim.serial_line import SerialLine

BROADCAST: Final = 0


class RtuServer:
    """The units of one line. `port` is the path to open; `start` after `stop` has it again.

    reply_s  what a unit takes from question to answer
    noise    bytes that a transceiver adds ahead of every answer
    whole    units refuse to read a part of a value: the only counts of registers that they read
    mute     they say nothing at all where they would refuse for that
    lie      what is sent in place of every answer, whatever it is
    """

    def __init__(
        self,
        bank: RegisterBank,
        *,
        unit: int = 1,
        baudrate: int = 0,
        bits: int = 10,
        reply_s: float = 0.0,
        folder: Path | None = None,
    ) -> None:
        self._own_folder = Path(tempfile.mkdtemp(prefix="tty")) if folder is None else None
        place = (folder or self._own_folder or Path()) / "tty"
        self.line = SerialLine(place, self._frame, baudrate=baudrate, bits=bits)
        self.port = str(self.line.path)
        self.reply_s = reply_s
        self.noise = b""
        self.whole: frozenset[int] = frozenset()
        self.mute = False
        self.lie: Callable[[bytes], bytes] | None = None
        self.requests = 0  # understood requests since the first start
        self.asked: list[int] = []  # the units of the last requests, oldest first
        self._device = ModbusServer(bank, unit=unit)
        self.faults = self._device.faults  # of all units
        self.unit_faults: dict[int, Faults] = {}  # of single units, in place of the others

    @property
    def banks(self) -> dict[int, RegisterBank]:
        """Unit -> its registers."""
        return self._device.banks

    @property
    def sessions(self) -> list[str]:
        """How often the port is open."""
        return self.line.openings

    @property
    def functions_off(self) -> set[int]:
        """Functions that the units do not have."""
        return self._device.functions_off

    async def start(self) -> str:
        """Plug the line in; returns its port."""
        if self._own_folder is not None:
            self._own_folder.mkdir(exist_ok=True)
        self.line.start()
        return self.port

    async def stop(self) -> None:
        """Pull the line out; may be called twice."""
        await self.line.stop()
        if self._own_folder is not None and self._own_folder.is_dir():
            self._own_folder.rmdir()

    def _frame(self, data: bytes) -> None:
        if len(data) <= ADU_BYTES or crc16(data[:-2]) != data[-2:]:
            return  # a unit is silent about what it does not understand
        unit, pdu = data[0], data[1:-2]
        if unit == BROADCAST:
            for every in self.banks:
                self._device.execute(every, pdu)
        if unit not in self.banks:
            return
        self.requests += 1
        self.asked = [*self.asked[-999:], unit]
        faults = self.unit_faults.get(unit, self.faults)
        if faults.silent:
            return
        if self.whole and pdu[0] in (3, 4) and int.from_bytes(pdu[3:5], "big") not in self.whole:
            if self.mute:
                return
            answer = bytes((pdu[0] | 0x80, ILLEGAL_ADDRESS))
        else:
            answer = self._device.execute(unit, pdu)
        if faults.wrong_unit:
            unit = (unit + 1) & 0xFF
        sent = self.noise + faults.spoil(frame(unit, answer))
        if self.lie is not None:
            sent = self.lie(sent)
        self.line.send(sent, self.reply_s + faults.delay_s)
