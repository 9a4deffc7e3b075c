"""keys.json: what can't be used lets nobody in, and says why."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from config import command_keys
from config.check_keys import check_keys
from config.command_keys import load_keys, parse_keys, revoked_or_out, utc_text
from config.load import require_site
from tests.config.building import mini_files, write_site

GOOD = base64.b64encode(bytes(range(32))).decode()
ENTRY: dict[str, Any] = {"Name": "market", "PublicKey": GOOD, "Points": ["Battery.*"]}
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
Point = tuple[int, int]


def add(one: Point, other: Point) -> Point:
    """RFC 8032 section 5.1.4, without regard for speed."""
    (x1, y1), (x2, y2) = one, other
    t = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, P - 2, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - t, P - 2, P) % P


def times(number: int, point: Point) -> Point:
    found = (0, 1)
    while number:
        if number & 1:
            found = add(found, point)
        point, number = add(point, point), number >> 1
    return found


def x_of(y: int) -> int | None:
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return x if (x * x - square) % P == 0 else None


def test_keys_with_which_everybody_could_sign_are_refused() -> None:
    small: set[int] = set()
    for y in range(2, 40):
        x = x_of(y)
        if x is not None and len(small) < 5:
            torsion = times(L, (x, y))
            small |= {times(n, torsion)[1] for n in range(8)}
    assert len(small) == 5  # of eight points: two have x of either sign
    encodings = small | {y + P for y in small if y + P < 2**255}
    for y in encodings:
        for sign in (0, 2**255):
            text = base64.b64encode((y | sign).to_bytes(32, "little")).decode()
            _, findings = parse_keys({"Keys": [{**ENTRY, "PublicKey": text}]})
            assert [f.rule for f in findings] == ["key-public"], hex(y)


WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([], "value-type"),
    "unknown key": ({"Keys": [{**ENTRY, "Point": []}]}, "key-unknown"),
    "name": ({"Keys": [{**ENTRY, "Name": "a b"}]}, "key-name"),
    "service": ({"Keys": [{**ENTRY, "Service": "a/b"}]}, "key-name"),
    "long name": ({"Keys": [{**ENTRY, "Name": "a" * 33}]}, "key-name"),
    "no base64": ({"Keys": [{**ENTRY, "PublicKey": "&&"}]}, "key-public"),
    "short": ({"Keys": [{**ENTRY, "PublicKey": "AAAA"}]}, "key-public"),
    "time": ({"Keys": [{**ENTRY, "NotAfter": "2026-02-30T00:00:00Z"}]}, "key-time"),
    "local time": ({"Keys": [{**ENTRY, "NotBefore": "2026-02-03 12:00"}]}, "key-time"),
    "revoked": ({"Keys": [{**ENTRY, "Revoked": "yes"}]}, "key-time"),
    "type": ({"Keys": [{**ENTRY, "Types": ["write"]}]}, "value-choice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_lets_nobody_in(name: str) -> None:
    content, rule = WRONG[name]
    known, findings = parse_keys(content)
    assert known == {}
    assert [f.rule for f in findings] == [rule]
    assert findings[0].file == "keys.json"


def test_two_entries_of_one_key_or_name_are_refused() -> None:
    twice = {"Keys": [ENTRY, {**ENTRY, "Name": "other"}]}
    assert [f.rule for f in parse_keys(twice)[1]] == ["key-public"]
    other = base64.b64encode(bytes(range(1, 33))).decode()
    assert [f.rule for f in parse_keys({"Keys": [ENTRY, {**ENTRY, "PublicKey": other}]})[1]] == [
        "key-name"
    ]


def test_times_decide_whether_a_key_counts() -> None:
    entry = {**ENTRY, "NotBefore": "2026-01-01T00:00:00Z", "NotAfter": "2026-01-02T00:00:00Z"}
    key = parse_keys({"Keys": [entry]})[0]["market"]
    begin = 1_767_225_600 * 10**9
    assert utc_text(begin) == "2026-01-01T00:00:00Z"
    assert revoked_or_out(key, begin - 1) == "the key counts from 2026-01-01T00:00:00Z on"
    assert revoked_or_out(key, begin) == ""
    assert revoked_or_out(key, begin + 86_400 * 10**9) == "the key has ended 2026-01-02T00:00:00Z"


def test_a_key_without_points_sets_nothing() -> None:
    key = parse_keys({"Keys": [{**ENTRY, "Points": []}]})[0]["market"]
    assert not key.may_set("Battery.Power")
    both = parse_keys({"Keys": [ENTRY]})[0]["market"]
    assert both.may_set("Battery.Power") and not both.may_set("Battery2.Power")


def test_a_folder_without_the_file_has_no_keys(tmp_path: Path) -> None:
    assert load_keys(tmp_path) == ({}, [])
    (tmp_path / command_keys.KEYS_FILE).write_bytes(b"\xff")
    known, findings = load_keys(tmp_path)
    assert known == {} and [f.rule for f in findings] == ["file-encoding"]


def test_the_check_warns_and_never_keeps_a_gateway_from_starting(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", mini_files())
    before = require_site(folder)
    entries = [{**ENTRY, "Points": ["Nothing.*"]}]
    (folder / "keys.json").write_text(json.dumps({"Keys": entries}), encoding="utf-8")
    site = require_site(folder)
    assert site.hash == before.hash  # a revocation makes no other configuration
    assert [(f.rule, f.severity) for f in check_keys(folder, site)] == [("key-point", "warning")]
    (folder / "keys.json").write_text("{", encoding="utf-8")
    assert {f.severity for f in check_keys(folder, require_site(folder))} == {"warning"}


def test_a_pattern_for_alarms_covers_something(tmp_path: Path) -> None:
    """A key may acknowledge and shelve them, which is no write."""
    folder = tmp_path / "site"
    shutil.copytree(Path(__file__).parents[2] / "config" / "sites" / "soec-lab", folder)
    entries = [{**ENTRY, "Points": ["Alarms.*"]}]
    (folder / "keys.json").write_text(json.dumps({"Keys": entries}), encoding="utf-8")
    assert check_keys(folder, require_site(folder)) == []


def test_a_form_error_in_one_entry_hides_nothing_of_the_others() -> None:
    other = {**ENTRY, "PublicKey": base64.b64encode(bytes(range(1, 33))).decode()}
    entries: list[Any] = [
        {**ENTRY, "Point": [], "NotAfter": "soon"},
        {"Name": "none"},
        "nothing",
        {**other, "Name": "a b"},
        {**ENTRY, "Name": "third", "PublicKey": "&&"},
        {**ENTRY, "Name": "market"},
        {**other, "Name": "fifth", "Revoked": "yes", "Types": ["command", 5]},
    ]
    known, findings = parse_keys({"Keys": entries})
    assert known == {}
    assert {(f.key, f.rule) for f in findings} == {
        ("Keys[0].Point", "key-unknown"),
        ("Keys[0].NotAfter", "key-time"),
        ("Keys[1].PublicKey", "key-missing"),
        ("Keys[2]", "value-type"),
        ("Keys[3].Name", "key-name"),
        ("Keys[4].PublicKey", "key-public"),
        ("Keys[5].Name", "key-name"),
        ("Keys[5].PublicKey", "key-public"),
        ("Keys[6].PublicKey", "key-public"),
        ("Keys[6].Revoked", "key-time"),
        ("Keys[6].Types[1]", "value-choice"),
    }
