"""A whole site in real processes for every test that asks for `town`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.crash.town import Town


@pytest.fixture
async def town(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Town]:
    """A town that runs."""
    made = Town(tmp_path, free_port())
    try:
        await made.start()
        yield made
    finally:
        await made.end()
