"""What a store holds, decoded, for assertions."""

from __future__ import annotations

from gateway.core.records import Gap
from sync import wire
from sync.store.store import Store


def held(store: Store) -> list[wire.Frame]:
    """All frames in the store, decoded."""
    frames = []
    after = 0
    while pieces := store.pending("cloud", after, 100):
        frames += [wire.decode_frame(piece.payload) for piece in pieces]
        after = pieces[-1].id
    return frames


def spans(store: Store) -> list[tuple[int, int, int]]:
    return [(f.batch.epoch, f.batch.first, f.batch.last) for f in held(store)]


def numbers(store: Store) -> list[int]:
    return [int(n) for f in held(store) for n in f.batch.records["seq"]]


def declared(store: Store) -> list[Gap]:
    return [gap for f in held(store) for gap in f.batch.gaps]
