"""A replay of what a gateway recorded against the events that it told itself."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud.historian_sqlite import SqliteHistorian
from gateway.cli.times import time_ns
from gateway.core.records import Batch, Birth
from sync.wire import Frame
from tests.gateway.plant import Plant
from tests.gateway.test_requests import CONTROLS, MACHINE

Gatepost = Callable[..., Any]
Told = set[tuple[str, str, int]]  # name, level or state, time in ms
STEPS = 300
SCAN_MS = 100


def lived(folder: Path, seed: int) -> tuple[Plant, list[Batch]]:
    """A plant whose inputs wander over all limits, with an operator who resets and asks."""
    plant = Plant(folder, CONTROLS)
    batches: list[Batch] = []
    draw = random.Random(seed)
    for _ in range(STEPS):
        plant.land("Rig.Temperature", draw.choice((20.0, 60.0, 880.0, 895.0, 905.0)))
        plant.land("Rig.Pressure", draw.choice((0.5, 1.5, 5.0, 11.0)))
        chance = draw.random()
        if chance < 0.1:
            plant.send("Gateway.Reset", 1.0)
        elif chance < 0.2:
            plant.ask(MACHINE, draw.choice(("Off", "Heat_Up")))
        elif chance < 0.25:
            plant.send("Gateway.E_Stop", float(draw.random() < 0.5))
        plant.run()
        last = batches[-1].last if batches else 0
        batch = plant.journal.after(last)
        batches += [batch] if batch is not None else []
    return plant, batches


def told_by_the_gateway(batches: list[Batch]) -> dict[str, Told]:
    """What became active or was entered; `trip` holds interlocks and permissives too."""
    found: dict[str, Told] = {"trip": set(), "alarm": set(), "machine": set()}
    for event in (event for batch in batches for event in batch.events):
        body, ms = event.body, round(event.utc_ns / 1e6)
        if event.kind == "state" and "machine" in body:
            found["machine"].add((body["machine"], body["state"], ms))
        elif event.kind == "trip" and body["active"] and body["kind"] != "permissive":
            found["trip"].add((body["name"], body["level"], ms))
        elif event.kind == "alarm" and body["what"] == "activated":
            found["alarm"].add((body["name"], body["level"], ms))
    return found


def recorded(path: Path, plant: Plant, batches: list[Batch]) -> None:
    """What ingest makes of it."""
    points = tuple({"index": p.index, "tag": p.tag} for p in plant.site.points)
    birth = Birth("small", 1, 0, "b" * 16, batches[0].birth, 0, points)
    historian = SqliteHistorian(path)
    historian.store_birth("small", birth)
    historian.commit_frames([("small", Frame(batch, 1)) for batch in batches])
    historian.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_it_finds_what_the_gateway_told(gatepost: Gatepost, tmp_path: Path, seed: int) -> None:
    plant, batches = lived(tmp_path / "site", seed)
    recorded(tmp_path / "historian.sqlite", plant, batches)
    words = ("--follow-states", "--reset-after", "never", "--json")
    outcome = gatepost("replay", tmp_path / "site", tmp_path / "historian.sqlite", *words)
    found = json.loads(outcome.out)
    told = told_by_the_gateway(batches)
    assert len(told["trip"]) > 20
    kinds = {"trip": "trip", "interlock": "trip", "alarm": "alarm", "machine": "machine"}
    replayed: dict[str, Told] = {kind: set() for kind in told}
    for event in found["events"]:
        if event["kind"] in kinds:
            one = (event["name"], event["what"], round(time_ns(event["start"]) / 1e6))
            replayed[kinds[event["kind"]]].add(one)
    assert replayed == told
