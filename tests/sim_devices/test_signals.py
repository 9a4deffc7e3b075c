"""The table of signals against the site's instrument files and the plant's quantities."""

from __future__ import annotations

import json
from pathlib import Path

from drivers.sim.plant import ACTUATORS, Plant
from drivers.sim.replay import load_replay
from drivers.sim.signals import SIGNALS

SITE = Path("config/sites/soec-lab")


def channels() -> dict[str, str]:
    """Tag -> ReadWrite of every channel of the site."""
    found = {}
    for file in SITE.glob("*.json"):
        content = json.loads(file.read_text())
        if "EquipmentTags" in content:
            name = content["EquipmentTags"]["EquipmentName"]
            for channel, keys in content["Channels"].items():
                found[f"{name}.{channel}"] = keys.get("ReadWrite", "R")
    return found


def test_every_signal_is_a_channel_of_the_site() -> None:
    assert not set(SIGNALS) - set(channels())


def test_every_signal_names_a_quantity_of_the_plant() -> None:
    quantities = Plant(load_replay()).sensors()
    assert not {signal.quantity for signal in SIGNALS.values()} - set(quantities)


def test_what_can_be_written_is_an_actuator_and_what_is_read_only_is_none() -> None:
    for tag, access in channels().items():
        if tag in SIGNALS:
            assert (SIGNALS[tag].quantity in ACTUATORS) == ("W" in access), tag


def test_channels_without_a_meaning_in_the_plant_are_known() -> None:
    assert set(channels()) - set(SIGNALS) == {"VFD_1.FAULT"}  # the drive never fails by itself
