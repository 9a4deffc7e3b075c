"""What a driver may raise, and nothing else.

    DriverError
    ├── NotConnected   no connection, or it broke during the exchange: reconnect
    ├── NoAnswer       connected, but nothing came in time
    ├── Refused        the device answered that it won't: bad address, busy, failure
    │   └── OutOfRange the driver itself won't: the channel's data type can't hold the value
    └── Garbled        the answer breaks the protocol: wrong length, unit, checksum, text

Blame is in the type: the first two say nothing about the device's health, `Refused` is the
device's word (`OutOfRange` apart), `Garbled` means that the session can't be trusted any more
(drivers close it).
"""

from __future__ import annotations


class DriverError(Exception):
    """An exchange with a device failed."""


class NotConnected(DriverError):
    """There is no connection, or it was lost during the exchange."""


class NoAnswer(DriverError):
    """The device did not answer in time."""


class Refused(DriverError):
    """The device refused the request.

    `permanent` is true where asking again can't help (illegal address or function).
    """

    def __init__(self, message: str, *, code: int = 0, permanent: bool = False) -> None:
        self.code = code
        self.permanent = permanent
        super().__init__(message)


class Garbled(DriverError):
    """The answer breaks the protocol."""


class OutOfRange(Refused):
    """The channel's data type can't hold the value; the driver refused, nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=True)
