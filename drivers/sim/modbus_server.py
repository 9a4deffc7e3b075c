"""A Modbus TCP server over arrays of registers and bits.

Sources: MODBUS Application Protocol Specification V1.1b3 (functions, exceptions, limits) and
MODBUS Messaging on TCP/IP Implementation Guide V1.0b (header).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from drivers.sim.listener import Listener, Session

ILLEGAL_FUNCTION: Final = 1
ILLEGAL_ADDRESS: Final = 2
ILLEGAL_VALUE: Final = 3
TARGET_SILENT: Final = 11  # a gateway's word for a unit that is not there

HEADER: Final = struct.Struct(">HHHB")  # transaction, protocol, length, unit
LENGTH_MAX: Final = 254  # unit and PDU
ADDRESSES: Final = 65536
BITS_READ_MAX: Final = 2000
BITS_WRITE_MAX: Final = 1968
REGISTERS_READ_MAX: Final = 125
REGISTERS_WRITE_MAX: Final = 123
REGISTERS_EXCHANGE_MAX: Final = 121  # written by function 23

STRUCT_CODES: Final = {
    "int16": "h",
    "uint16": "H",
    "float16": "e",
    "int32": "i",
    "uint32": "I",
    "float32": "f",
    "int64": "q",
    "uint64": "Q",
    "float64": "d",
}

OnWrite = Callable[[str, int, list[int]], None]


class Rejected(Exception):
    """The device refuses a request; `on_write` may raise it to refuse a write."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"Modbus exception {code}")


class RegisterBank:
    """The four tables of one unit, 65536 entries each, all addresses valid at first.

    holding, inputs   (65536,) uint16
    coils, discretes  (65536,) bool
    """

    def __init__(self) -> None:
        self.holding: NDArray[np.uint16] = np.zeros(ADDRESSES, dtype=np.uint16)
        self.inputs: NDArray[np.uint16] = np.zeros(ADDRESSES, dtype=np.uint16)
        self.coils: NDArray[np.bool_] = np.zeros(ADDRESSES, dtype=np.bool_)
        self.discretes: NDArray[np.bool_] = np.zeros(ADDRESSES, dtype=np.bool_)
        self._valid: dict[str, NDArray[np.bool_]] = {}
        self.refused: set[tuple[str, int, int]] = set()  # (table, first, count): exception 2 now

    def allow_only(self, kind: str, ranges: Iterable[tuple[int, int]]) -> None:
        """Declare the (first, count) ranges of a table that exist; all else answers exception 2."""
        valid = np.zeros(ADDRESSES, dtype=np.bool_)
        for first, count in ranges:
            valid[first : first + count] = True
        self._table(kind)
        self._valid[kind] = valid

    def put(
        self,
        kind: str,
        address: int,
        value: float,
        data_type: str = "float32",
        byte_order: str = "Big",
        word_order: str = "Big",
    ) -> None:
        """Write a number into registers; raises struct.error where it does not fit its type."""
        code = STRUCT_CODES[data_type]
        number = value if code in "efd" else int(value)
        words = _words(struct.pack(">" + code, number), byte_order, word_order)
        self._table(kind)[address : address + len(words)] = words

    def get(
        self,
        kind: str,
        address: int,
        data_type: str = "float32",
        byte_order: str = "Big",
        word_order: str = "Big",
    ) -> float:
        """Read a number from registers."""
        code = STRUCT_CODES[data_type]
        count = struct.calcsize(code) // 2
        words = [int(word) for word in self._table(kind)[address : address + count]]
        if byte_order == "Little":
            words = [_swapped(word) for word in words]
        if word_order == "Little":
            words.reverse()
        number: float = struct.unpack(">" + code, struct.pack(f">{count}H", *words))[0]
        return number

    def put_float32(
        self,
        kind: str,
        address: int,
        value: float,
        byte_order: str = "Big",
        word_order: str = "Big",
    ) -> None:
        """Write a 32-bit float into two registers."""
        self.put(kind, address, value, "float32", byte_order, word_order)

    def get_float32(
        self, kind: str, address: int, byte_order: str = "Big", word_order: str = "Big"
    ) -> float:
        """Read a 32-bit float from two registers."""
        return self.get(kind, address, "float32", byte_order, word_order)

    def check_range(self, kind: str, first: int, count: int) -> None:
        """Raises Rejected(2) where a part of the range does not exist or is refused."""
        if first + count > ADDRESSES:
            raise Rejected(ILLEGAL_ADDRESS)
        valid = self._valid.get(kind)
        if valid is not None and not valid[first : first + count].all():
            raise Rejected(ILLEGAL_ADDRESS)
        for table, start, width in self.refused:
            if table == kind and start < first + count and first < start + width:
                raise Rejected(ILLEGAL_ADDRESS)

    def _table(self, kind: str) -> NDArray[np.uint16] | NDArray[np.bool_]:
        assert kind in ("holding", "inputs", "coils", "discretes"), f"no table is called {kind}"
        table: NDArray[np.uint16] | NDArray[np.bool_] = getattr(self, kind)
        return table


def _swapped(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8


def _words(data: bytes, byte_order: str, word_order: str) -> list[int]:
    words = list(struct.unpack(f">{len(data) // 2}H", data))
    if word_order == "Little":
        words.reverse()
    if byte_order == "Little":
        words = [_swapped(word) for word in words]
    return words


class ModbusServer(Listener):
    """A Modbus TCP device of one unit or several.

    on_write  called with table, first address and values behind each accepted write; may change
              the bank, and may raise Rejected to refuse (the written values are then taken back)
    """

    def __init__(
        self,
        bank: RegisterBank,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unit: int = 1,
        on_write: OnWrite | None = None,
    ) -> None:
        super().__init__(host=host, port=port)
        self.banks = {unit: bank}
        self.on_write = on_write
        self.functions_off: set[int] = set()  # functions that this device does not have

    def add_unit(self, unit: int, bank: RegisterBank) -> None:
        """A further unit behind the same address, as behind a serial gateway."""
        self.banks[unit] = bank

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return _ModbusSession(self)

    def execute(self, unit: int, pdu: bytes) -> bytes:
        """One request PDU in, one answer PDU out (an exception answer where it is refused)."""
        function = pdu[0]
        try:
            if self.faults.exception_code:
                raise Rejected(self.faults.exception_code)
            bank = self.banks.get(unit)
            if bank is None:
                raise Rejected(TARGET_SILENT)
            handler = _FUNCTIONS.get(function)
            if handler is None or function in self.functions_off:
                raise Rejected(ILLEGAL_FUNCTION)
            return handler(self, bank, pdu)
        except Rejected as refusal:
            return bytes((function | 0x80, refusal.code))

    def store(self, bank: RegisterBank, kind: str, first: int, values: list[int]) -> None:
        """Write values and tell `on_write`, or raise Rejected and leave the table as it was."""
        bank.check_range(kind, first, len(values))
        table = bank.holding if kind == "holding" else bank.coils
        before = table[first : first + len(values)].copy()
        table[first : first + len(values)] = values
        if self.on_write is not None:
            try:
                self.on_write(kind, first, values)
            except Rejected:
                table[first : first + len(values)] = before
                raise


def _read_bits(server: ModbusServer, bank: RegisterBank, pdu: bytes) -> bytes:
    first, count = _fields(">HH", pdu)
    if not 1 <= count <= BITS_READ_MAX:
        raise Rejected(ILLEGAL_VALUE)
    kind = "coils" if pdu[0] == 1 else "discretes"
    bank.check_range(kind, first, count)
    table = bank.coils if pdu[0] == 1 else bank.discretes
    data = np.packbits(table[first : first + count], bitorder="little").tobytes()
    return bytes((pdu[0], len(data))) + data


def _read_registers(server: ModbusServer, bank: RegisterBank, pdu: bytes) -> bytes:
    first, count = _fields(">HH", pdu)
    if not 1 <= count <= REGISTERS_READ_MAX:
        raise Rejected(ILLEGAL_VALUE)
    kind = "holding" if pdu[0] == 3 else "inputs"
    bank.check_range(kind, first, count)
    table = bank.holding if pdu[0] == 3 else bank.inputs
    return bytes((pdu[0], 2 * count)) + table[first : first + count].astype(">u2").tobytes()


def _write_coil(server: ModbusServer, bank: RegisterBank, pdu: bytes) -> bytes:
    address, value = _fields(">HH", pdu)
    if value not in (0x0000, 0xFF00):
        raise Rejected(ILLEGAL_VALUE)
    server.store(bank, "coils", address, [int(value == 0xFF00)])
    return pdu


def _write_register(server: ModbusServer, bank: RegisterBank, pdu: bytes) -> bytes:
    address, value = _fields(">HH", pdu)
    server.store(bank, "holding", address, [value])
    return pdu


def _write_coils(server: ModbusServer, bank: RegisterBank, pdu: bytes) -> bytes:
    first, count, size = _fields(">HHB", pdu, exact=False)
    data = pdu[6:]
    if not 1 <= count <= BITS_WRITE_MAX or size != (count + 7) // 8 or len(data) != size:
        raise Rejected(ILLEGAL_VALUE)
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")[:count]
    server.store(bank, "coils", first, [int(bit) for bit in bits])
    return pdu[:5]


def _write_registers(server: ModbusServer, bank: RegisterBank, pdu: bytes) -> bytes:
    first, count, size = _fields(">HHB", pdu, exact=False)
    data = pdu[6:]
    if not 1 <= count <= REGISTERS_WRITE_MAX or size != 2 * count or len(data) != size:
        raise Rejected(ILLEGAL_VALUE)
    server.store(bank, "holding", first, list(struct.unpack(f">{count}H", data)))
    return pdu[:5]


def _mask_write(server: ModbusServer, bank: RegisterBank, pdu: bytes) -> bytes:
    address, keep, put = _fields(">HHH", pdu)
    bank.check_range("holding", address, 1)
    before = int(bank.holding[address])
    server.store(bank, "holding", address, [(before & keep) | (put & ~keep & 0xFFFF)])
    return pdu


def _exchange(server: ModbusServer, bank: RegisterBank, pdu: bytes) -> bytes:
    """Function 23: the write happens before the read."""
    first, count, put_first, put_count, size = _fields(">HHHHB", pdu, exact=False)
    data = pdu[10:]
    if not 1 <= count <= REGISTERS_READ_MAX or not 1 <= put_count <= REGISTERS_EXCHANGE_MAX:
        raise Rejected(ILLEGAL_VALUE)
    if size != 2 * put_count or len(data) != size:
        raise Rejected(ILLEGAL_VALUE)
    bank.check_range("holding", first, count)
    server.store(bank, "holding", put_first, list(struct.unpack(f">{put_count}H", data)))
    read = bank.holding[first : first + count].astype(">u2").tobytes()
    return bytes((pdu[0], 2 * count)) + read


def _fields(form: str, pdu: bytes, *, exact: bool = True) -> tuple[int, ...]:
    """The numbers behind the function code; Rejected(3) where the request has another length."""
    size = struct.calcsize(form)
    if len(pdu) - 1 < size or (exact and len(pdu) - 1 != size):
        raise Rejected(ILLEGAL_VALUE)
    return struct.unpack_from(form, pdu, 1)


_FUNCTIONS: Final[dict[int, Callable[[ModbusServer, RegisterBank, bytes], bytes]]] = {
    1: _read_bits,
    2: _read_bits,
    3: _read_registers,
    4: _read_registers,
    5: _write_coil,
    6: _write_register,
    15: _write_coils,
    16: _write_registers,
    22: _mask_write,
    23: _exchange,
}


class _ModbusSession(Session):
    """Cuts the stream into frames; closes where the header can't be Modbus."""

    def __init__(self, server: ModbusServer) -> None:
        super().__init__(server)
        self.server = server

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            transaction, protocol, length, unit = HEADER.unpack_from(buffer, start)
            if protocol != 0 or not 2 <= length <= LENGTH_MAX:
                self.drop()
                return
            end = start + 6 + length
            if len(buffer) < end:
                break
            self._take(transaction, unit, bytes(buffer[start + HEADER.size : end]))
            start = end
        if start:
            del buffer[:start]

    def _take(self, transaction: int, unit: int, pdu: bytes) -> None:
        server, faults = self.server, self.server.faults
        server.requests += 1
        if faults.silent:
            return
        answer = server.execute(unit, pdu)
        if faults.wrong_unit:
            unit = (unit + 1) & 0xFF
        if faults.wrong_transaction:
            transaction = (transaction + 0x4000) & 0xFFFF
        self.answer(HEADER.pack(transaction, 0, len(answer) + 1, unit) + answer)
