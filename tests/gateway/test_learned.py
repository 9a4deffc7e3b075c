"""What devices refuse is kept over restarts, and a damaged file costs nothing but that."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.learned import FILE_BYTES_MAX, LABELS_MAX, Learned, LearnedError


def test_labels_come_back_in_another_life(tmp_path: Path) -> None:
    learned = Learned(tmp_path / "learned.json")
    learned.load()
    learned.add("Meter", ["unit 1, registers 0 to 9"])
    learned.add("Meter", ["unit 1, registers 20 to 29"])
    learned.save(learned.content())
    again = Learned(tmp_path / "learned.json")
    again.load()
    assert list(again.labels("Meter")) == [
        "unit 1, registers 0 to 9",
        "unit 1, registers 20 to 29",
    ]
    assert list(again.labels("Other")) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"Meter": 1}', '{"Meter": "abc"}', '{"Meter": null}', "\xff"]
)
def test_a_damaged_file_is_reported_and_begun_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "learned.json"
    path.write_text(text, encoding="latin-1")
    learned = Learned(path)
    with pytest.raises(LearnedError, match=r"learned\.json: damaged"):
        learned.load()
    learned.add("Meter", ["a"])
    learned.save(learned.content())
    again = Learned(path)
    again.load()
    assert list(again.labels("Meter")) == ["a"]


def test_a_folder_in_its_place_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LearnedError, match=str(tmp_path)):
        Learned(tmp_path).load()
    with pytest.raises(LearnedError, match="missing"):
        Learned(tmp_path / "missing" / "learned.json").save({})


def test_the_oldest_labels_make_room() -> None:
    learned = Learned(Path("unused"))
    learned.add("Meter", [str(i) for i in range(LABELS_MAX + 5)])
    assert next(iter(learned.labels("Meter"))) == "5"
    assert len(learned.labels("Meter")) == LABELS_MAX


def test_instruments_that_are_gone_are_forgotten() -> None:
    learned = Learned(Path("unused"))
    learned.add("Meter", ["a"])
    learned.add("Gone", ["b"])
    learned.keep({"Meter", "New"})
    assert learned.content() == {"Meter": ["a"]}


def test_more_than_is_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "learned.json"
    with pytest.raises(LearnedError, match="too much"):
        Learned(path).save({"Meter": ["x" * FILE_BYTES_MAX]})
    assert not path.exists()
