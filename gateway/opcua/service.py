"""What a service of the server gets and gives: the contract between transport and services.

A service is an ``async def`` that takes a `Call` and returns a response structure of
`asyncua.ua` (the transport fills in its header), or the bytes of an encoded one, or None where it
answers later by `Call.answer`. It raises `Fault` for a ServiceFault.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from asyncua import ua
from asyncua.common.utils import Buffer

if TYPE_CHECKING:
    from gateway.opcua.transport.session import Session

# ResponseHeader of OPC 10000-6: timestamp, handle, result, no diagnostics, no strings, no header.
_HEADER: Final = struct.Struct("<qIIBiBBB")


class Fault(Exception):
    """The whole request is refused with a status code."""

    def __init__(self, code: int) -> None:
        super().__init__(ua.StatusCode(ua.UInt32(code)).name)
        self.code = code


Meter = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


def _unmetered(work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    return work


@dataclass(slots=True, eq=False)
class Call:
    """One request.

    body     what stands behind the RequestHeader
    session  activated; the transport has checked the authentication token
    answer   sends a response structure or an encoded one; for services that answer later. Does
             nothing where the connection is gone.
    fault    answers with a ServiceFault
    done     it was answered, cancelled by its client, or its connection is gone: an answer that is
             given now reaches nobody, so what waits for an answer should take another call
    bytes_max  of the response, as the client asked; 0 = it named no limit
    meter    puts the computing time of work that the service starts as a task of its own on the
             client's account
    """

    session: Session
    header: ua.RequestHeader
    body: Buffer
    answer: Callable[[Any], None]
    fault: Callable[[int], None]
    done: bool = False
    bytes_max: int = 0
    meter: Meter = _unmetered


Service = Callable[[Call], Awaitable[Any]]
Services = Mapping[int, Service]  # number of the request's binary encoding -> who serves it


def response_head(encoding: int, handle: int, ticks: int) -> bytes:
    """The first bytes of an encoded response: TypeId and a good ResponseHeader.

    encoding  number of the response's binary encoding in namespace 0, below 65536
    ticks     now, in 100 ns since 1601-01-01
    """
    return struct.pack("<BBH", 1, 0, encoding) + _HEADER.pack(ticks, handle, 0, 0, 0, 0, 0, 0)
