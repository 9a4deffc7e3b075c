"""Pauses of the garbage collection end, whatever happens in them."""

from __future__ import annotations

import gc

import pytest

from gateway.core.garbage import collection_paused


def test_a_pause_ends_with_its_work_also_where_that_fails() -> None:
    assert gc.isenabled()
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="wrong"), collection_paused():
        raise ValueError("wrong")
    assert gc.isenabled()


def test_a_pause_does_not_begin_a_collection_that_was_off() -> None:
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
