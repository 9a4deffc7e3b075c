"""What a look at an unknown device gives: the beginning of an instrument file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from config.points import RESERVED_EQUIPMENT

NAME_MAX: Final = 40

Tell = Callable[[str], None]  # progress, for people


@dataclass(slots=True)
class Discovered:
    """What was found, in the form of an instrument file.

    tags      keys of `EquipmentTags`; `EquipmentName` is a proposal
    channels  channel -> its keys
    notes     what a person should know about it
    broken    why the look ended early, so that something may be missing; empty where it did not
    """

    tags: dict[str, Any]
    channels: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: str = ""


def name_of(*texts: str) -> str:
    """An equipment's name out of what a device calls itself; ``Device`` where it says nothing."""
    words = [re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_") for text in texts]
    name = "_".join(word for word in words if word)[:NAME_MAX].strip("_") or "Device"
    return f"{name}_device" if name in RESERVED_EQUIPMENT else name


def clean(text: bytes | str) -> str:
    """What a device says about itself as one printable line of bounded length."""
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    return "".join(sign for sign in text if sign.isprintable()).strip()[:200]


def listed(**parts: str) -> str:
    """``serial number 7, firmware 1.2``: what is known, each with its word; keys with ``_``."""
    return ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in parts.items() if text)
