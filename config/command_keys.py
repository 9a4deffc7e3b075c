"""``keys.json``: whose commands and schedules from outside count, and for which points.

The file holds public keys only. It is read by the link process at its start and whenever it
changes, so that a revocation needs no restart; so it is no part of the configuration's hash. A
file that can't be used lets nobody in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from config import keys
from config.findings import Finding, printable
from config.points import fits
from config.read import FINDINGS_PER_FILE_MAX, Files
from config.validate import sound_part, validate

KEYS_FILE: Final = "keys.json"
KEYS_MAX: Final = 64
PUBLIC_BYTES: Final = 32
TIME_EXAMPLE: Final = "2026-11-21T12:00:00Z"
FOREVER_NS: Final = 2**63 - 1

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_TIME: Final = re.compile(r"(20|21)\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")
# The points of small order of edwards25519, in every encoding (RFC 8032 section 5.1, p = 2^255-19):
# with such a public key everybody could sign. A test computes them anew.
_P: Final = 2**255 - 19
_Y8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_WEAK_Y: Final = frozenset((0, 1, _P - 1, _P, _P + 1, _Y8, _P - _Y8))

MessageType = Literal["command", "schedule", "query"]


class KeyEntry(keys.Keys):
    """A service that may command: its public key, and what it may do."""

    Name: str  # goes with each message
    Service: str | None = None  # whose key it is; its schedules are its own; default Name
    PublicKey: str  # Ed25519, 32 bytes in base64
    Points: list[str] = []  # tags or patterns of them, e.g. "Battery.*"; [] = none
    Types: list[MessageType] = ["command", "query"]
    NotBefore: str | None = None  # UTC, e.g. "2026-11-21T12:00:00Z"
    NotAfter: str | None = None  # UTC
    Revoked: str | None = None  # UTC, when; a key with a time here counts no more


class KeysFile(keys.Keys):
    """``keys.json``: keys of services; ``gatepost keys`` writes it."""

    Keys: Annotated[list[KeyEntry], Field(max_length=KEYS_MAX)] = []


@dataclass(frozen=True, slots=True)
class CommandKey:
    """A key as messages are judged by it.

    identity  names the key for good, whatever it is called: SHA-256 of its public bytes
    revoked   when it was revoked; "" = it was not
    """

    name: str
    service: str
    public: bytes
    points: tuple[str, ...]
    types: tuple[str, ...]
    not_before_ns: int
    not_after_ns: int
    revoked: str

    @property
    def identity(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(self.public).hexdigest()[:16]

    def may_set(self, tag: str) -> bool:
        """True where one of the key's patterns covers the point."""
        return fits(tag, self.points)


def load_keys(folder: Path) -> tuple[dict[str, CommandKey], list[Finding]]:
    """The keys of a site folder by their names; with an error among the findings there are none.

    Never raises on what the folder holds. A site without the file has no keys.
    """
    files = Files(folder)
    if not files.stands(KEYS_FILE):
        return {}, []
    value = files.json(KEYS_FILE)
    if value is None:
        return {}, files.findings
    return parse_keys(value)


def parse_keys(value: Any) -> tuple[dict[str, CommandKey], list[Finding]]:
    """The keys of a parsed ``keys.json`` by their names, or what is wrong with it."""
    content, findings = validate(KEYS_FILE, value, KeysFile)
    if content is None:
        findings += _faults(_readable(value))
        return {}, sorted(findings)[:FINDINGS_PER_FILE_MAX]
    findings = sorted(_faults(enumerate(content.Keys)))
    if findings:
        return {}, findings
    return {entry.Name: _key(entry) for entry in content.Keys}, []


def _readable(value: Any) -> Iterator[tuple[int, KeyEntry]]:
    """Of a file that doesn't fit the model: entries and their places, without what is wrong."""
    entries = value.get("Keys") if isinstance(value, dict) else None
    for number, raw in enumerate(entries[:KEYS_MAX] if isinstance(entries, list) else []):
        entry = sound_part(raw, KeyEntry)
        if entry is not None:
            yield number, entry


def public_text(public: bytes) -> str:
    """32 public bytes as `PublicKey` has them."""
    return base64.b64encode(public).decode("ascii")


def utc_text(utc_ns: int) -> str:
    """A time as the file has it; fractions of a second are cut off."""
    return f"{np.datetime_as_string(np.datetime64(utc_ns // 10**9, 's'))}Z"


def _key(entry: KeyEntry) -> CommandKey:
    return CommandKey(
        name=entry.Name,
        service=entry.Service or entry.Name,
        public=_public(entry.PublicKey),
        points=tuple(entry.Points),
        types=tuple(entry.Types),
        not_before_ns=0 if entry.NotBefore is None else _time_ns(entry.NotBefore),
        not_after_ns=FOREVER_NS if entry.NotAfter is None else _time_ns(entry.NotAfter),
        revoked=entry.Revoked or "",
    )


def _public(text: str) -> bytes:
    """The 32 bytes of a public key. Raises ValueError."""
    try:
        public = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is no base64") from None
    if len(public) != PUBLIC_BYTES:
        raise ValueError(f"it has {len(public)} bytes, not {PUBLIC_BYTES}")
    if int.from_bytes(public, "little") & (2**255 - 1) in _WEAK_Y:
        raise ValueError("everybody could sign with such a key")
    return public


def _time_ns(text: str) -> int:
    """A time of the file in ns since 1970. Raises ValueError."""
    if not _TIME.fullmatch(text):
        raise ValueError(text)
    return int(np.datetime64(text[:-1], "ns").astype(np.int64))


def _faults(entries: Iterable[tuple[int, KeyEntry]]) -> Iterator[Finding]:
    names: dict[str, int] = {}
    publics: dict[bytes, str] = {}
    for number, entry in entries:
        at = f"Keys[{number}]"
        for place, name in (("Name", entry.Name), ("Service", entry.Service)):
            if name is not None and not _NAME.fullmatch(name):
                yield _fault(
                    f"{at}.{place}",
                    "key-name",
                    f'"{printable(name)}" can\'t name a key or a service: use 1 to 32 letters, '
                    'digits, "_", "-" and ".", starting with a letter or digit.',
                )
        if entry.Name in names:
            yield _fault(
                f"{at}.Name",
                "key-name",
                f'Keys[{names[entry.Name]}] is called "{printable(entry.Name)}" too. Give each key '
                "its own name.",
            )
        names.setdefault(entry.Name, number)
        yield from _public_faults(at, entry, publics)
        yield from _time_faults(at, entry)


def _public_faults(at: str, entry: KeyEntry, publics: dict[bytes, str]) -> Iterator[Finding]:
    try:
        public = _public(entry.PublicKey)
    except ValueError as error:
        yield _fault(
            f"{at}.PublicKey",
            "key-public",
            f"No public key of Ed25519: {error}. `gatepost keys make` prints one.",
        )
        return
    if public in publics:
        yield _fault(
            f"{at}.PublicKey",
            "key-public",
            f'The key is that of "{printable(publics[public])}" too, which would stay good where '
            "this one is revoked. Make a key of its own.",
        )
    publics.setdefault(public, entry.Name)


def _time_faults(at: str, entry: KeyEntry) -> Iterator[Finding]:
    times: dict[str, int] = {}
    for name in ("NotBefore", "NotAfter", "Revoked"):
        text = getattr(entry, name)
        if text is None:
            continue
        try:
            times[name] = _time_ns(text)
        except ValueError:
            message = f'"{printable(text)}" is no time in UTC. Write it as "{TIME_EXAMPLE}".'
            yield _fault(f"{at}.{name}", "key-time", message)
    if times.get("NotAfter", FOREVER_NS) <= times.get("NotBefore", 0):
        yield _fault(f"{at}.NotAfter", "key-time", "The key ends before it begins to count.")


def _fault(key: str, rule: str, message: str) -> Finding:
    return Finding(KEYS_FILE, key, rule, message)


def revoked_or_out(key: CommandKey, now_ns: int) -> str:
    """Why a key doesn't count at a time; "" where it does."""
    if key.revoked:
        return f"the key was revoked {key.revoked}"
    if now_ns < key.not_before_ns:
        return f"the key counts from {utc_text(key.not_before_ns)} on"
    if now_ns >= key.not_after_ns:
        return f"the key has ended {utc_text(key.not_after_ns)}"
    return ""


def by_name(known: Mapping[str, CommandKey]) -> list[CommandKey]:
    """The keys in the order of their names."""
    return [known[name] for name in sorted(known)]
