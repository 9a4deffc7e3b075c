"""Gaps of batches that become one."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.records import Gap
from sync import gaps, wire
from sync.gaps import gap_batch

ENDED = "field process ended before the link took it"


def test_an_epoch_that_was_ended_twice_has_one_open_end() -> None:
    """A link that dies behind its declaration makes it again, one number further on."""
    ends = [gap_batch(7, number, number, ENDED) for number in (102, 103, 104)]
    ends = [replace(end, gaps=(Gap(end.first, 0, ENDED),)) for end in ends]
    joined = gaps.join([gap_batch(7, 90, 101, "store over its quota"), *ends])
    assert joined.gaps == (
        Gap(90, 101, "store over its quota"),
        Gap(102, 103, ENDED),
        Gap(104, 0, ENDED),
    )
    assert wire.decode_body(wire.encode_body(joined)).gaps == joined.gaps
