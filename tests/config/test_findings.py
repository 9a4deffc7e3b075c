"""Findings as people read them."""

from __future__ import annotations

from config.findings import ALIKE_MAX, Finding, folded


def alike(count: int, severity: str = "warning", file: str = "A.json") -> list[Finding]:
    """Findings that differ in numbers only."""
    return [
        Finding(file, f"Channels.C{at}", "rule", f"Channel {at} is wrong.", severity)  # type: ignore[arg-type]
        for at in range(count)
    ]


def test_a_few_warnings_stay_as_they_are() -> None:
    found = [*alike(ALIKE_MAX), *alike(ALIKE_MAX, file="B.json")]
    assert folded(found) == found


def test_many_warnings_become_one_of_each_file() -> None:
    other = Finding("A.json", "Channels.Z", "rule", "Something else.", "warning")
    first, last, second = folded([*alike(100), other, *alike(50, file="B.json")])
    assert first.key == "Channels.C0"
    assert first.message == (
        "Channel 0 is wrong. The same at Channels.C1, Channels.C2, Channels.C3 and 96 more."
    )
    assert last == other
    assert (second.file, second.message[-12:]) == ("B.json", "and 46 more.")


def test_every_error_is_told() -> None:
    found = sorted(alike(100, "error"))
    assert folded(found) == found
