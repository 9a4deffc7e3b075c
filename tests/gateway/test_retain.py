"""The retain file: whole or refused, never half."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gateway import retain
from gateway.retain import Retained, RetainError


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    latched = {"Control/Fire": {"level": "GasShutOff", "first_out": 1}}
    kept = Retained(5, 99, latched, {"Alarms/Hot": {"state": "out of service", "by": "shift"}})
    retain.save(tmp_path / "retain.json", kept)
    assert retain.load(tmp_path / "retain.json") == kept


def test_no_file_is_a_first_start(tmp_path: Path) -> None:
    assert retain.load(tmp_path / "retain.json") == Retained()


def test_every_single_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "retain.json"
    latched, alarms = {"Control/Fire": {"level": "GasShutOff"}}, {"Hot": {"state": "shelved"}}
    retain.save(path, Retained(5, 99, latched, alarms))
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
        with pytest.raises(RetainError):
            retain.load(path)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"body": 3, "sha256": ""}', b"\xff", b"[" * 99999]
)
def test_garbage_is_refused_with_the_files_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "retain.json"
    path.write_bytes(data)
    with pytest.raises(RetainError, match=r"retain\.json"):
        retain.load(path)


def test_a_folder_that_refuses_ends_in_one_clear_error_and_leaves_the_old_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "retain.json"
    retain.save(path, Retained(1))
    path.with_suffix(".new").mkdir()
    with pytest.raises(RetainError, match=r"retain\.json"):
        retain.save(path, Retained(2))
    assert retain.load(path) == Retained(1)


def checked(part: dict[str, object]) -> tuple[str, str]:
    """A part of the file, and its checksum."""
    text = json.dumps(part)
    return text, hashlib.sha256(text.encode()).hexdigest()


def test_a_file_of_the_first_release_loads(tmp_path: Path) -> None:
    body, checksum = checked({"epoch": 5, "last": 9, "latched": {"Fire": {"level": "Shut"}}})
    path = tmp_path / "retain.json"
    path.write_text(json.dumps({"sha256": checksum, "body": body}), encoding="utf-8")
    assert retain.load(path) == Retained(5, 9, {"Fire": {"level": "Shut"}})


def test_the_first_release_finds_what_it_knows_in_a_file_of_this_one(tmp_path: Path) -> None:
    """It takes `body` for damaged where that has another key than these three."""
    path = tmp_path / "retain.json"
    retain.save(path, Retained(5, 9, {"Fire": {}}, {"Hot": {"state": "shelved"}}))
    outer = json.loads(path.read_text(encoding="utf-8"))
    assert outer["sha256"] == hashlib.sha256(outer["body"].encode()).hexdigest()
    assert json.loads(outer["body"]) == {"epoch": 5, "last": 9, "latched": {"Fire": {}}}


def test_what_a_later_release_added_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "retain.json"
    body, checksum = checked({"epoch": 5, "last": 9, "latched": {}})
    more, more_checksum = checked({"alarms": {"Hot": {}}, "from_the_future": 7})
    outer = {"sha256": checksum, "body": body, "more_sha256": more_checksum, "more": more}
    path.write_text(json.dumps({**outer, "and": "more"}), encoding="utf-8")
    assert retain.load(path) == Retained(5, 9, {}, {"Hot": {}})


def test_a_damaged_file_is_kept_for_a_look(tmp_path: Path) -> None:
    path = tmp_path / "retain.json"
    path.write_text("junk")
    aside = retain.set_aside(path)
    assert aside.read_text() == "junk"
    assert retain.load(path) == Retained()


def test_a_trip_of_every_rule_of_a_large_site_survives(tmp_path: Path) -> None:
    latched = {f"Control/{'x' * 100}{n}": {"level": "Shut", "first_out": n} for n in range(10_000)}
    retain.save(tmp_path / "retain.json", Retained(5, 0, latched))
    assert retain.load(tmp_path / "retain.json").latched == latched
