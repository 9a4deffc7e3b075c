"""Drivers run on the loop that the gateway uses, and on asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """Each test once per loop: uvloop's transports differ from asyncio's in small ways."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
