"""What single conditions show: votes, limits out of range, trips that a lost channel weakens."""

from __future__ import annotations

from typing import Any

import pytest

from config.findings import Finding, folded
from safety.compile import compile_site
from tests.safety.sites import make_site

CHANNELS: dict[str, dict[str, Any]] = {
    "A.T": {"Units": "degC", "Minimum": 0, "Maximum": 850},
    "A.U": {"Units": "degC"},
    "A.V": {"Units": "degC"},
    "A.Low": {"Minimum": 10},
    "Gas.Valve": {"Type": "Digital", "ReadWrite": "RW", "SafeValue": 0},
}
CLOSE = {"Gas.Valve": 0}
STOP = {"Control/E_Stop": {"When": "Gateway.E_Stop", "Effects": CLOSE}}


def found_in(when: str, alarms: dict[str, Any] | None = None, **keys: Any) -> list[Finding]:
    """The findings of a site with one trip; its program is whole all the same."""
    controls = {**STOP, "Hot": {"When": when, "Effects": CLOSE, **keys}}
    program, found = compile_site(make_site(CHANNELS, alarms, controls=controls))
    assert program is not None, found
    assert all(finding.severity == "warning" for finding in found)
    return found


def rules_of(found: list[Finding]) -> list[str]:
    return [finding.rule for finding in found]


# ---------------------------------------------------------------- votes


@pytest.mark.parametrize(
    "when",
    [
        "vote(2, A.U > 900, A.V > 900, A.U > 900)",
        "vote(2, A.U > 900, A.V > 900, 900 < A.U)",
        "A.T > 5 or not vote(2, A.U > 900 for 5s, A.V > 900, A.U > 900 for 5s)",
    ],
)
def test_a_channel_that_votes_twice_is_warned_of(when: str) -> None:
    found = found_in(when)
    assert rules_of(found) == ["vote-duplicate"]
    assert found[0].key == "Automatic_Controls.Hot.When"
    assert "A.U > 900" in found[0].message
    assert "votes twice" in found[0].message


@pytest.mark.parametrize(
    "when",
    [
        "vote(2, A.U > 900, A.V > 900, A.T > 800)",
        "vote(2, A.U > 900, A.V > 900, A.U > 950)",
        "vote(1, A.U > 900, A.U < 100, A.V > 900)",
        "vote(1, A.U > 900, A.V > 900) or vote(1, A.U > 900, A.V > 900)",
    ],
)
def test_votes_of_different_conditions_are_none(when: str) -> None:
    assert found_in(when) == []


VOTE = "vote(2, A.U > 900, A.V > 900, A.T > 800)"


def test_a_vote_that_drops_channels_makes_a_trip_less_safe() -> None:
    assert rules_of(found_in(f"{VOTE} degrade drop")) == ["vote-degrade"]


def test_so_it_does_in_an_alarm_that_the_trip_reads() -> None:
    alarms = {"Over": {"When": f"{VOTE} degrade drop", "Level": "High"}}
    found = found_in("alarm(Over)", alarms)
    assert [(one.rule, one.key) for one in found] == [("vote-degrade", "AlarmStates.Over.When")]
    assert found_in("A.U > 5", alarms) == []


@pytest.mark.parametrize("degrade", ["", " degrade trip", " degrade none"])
def test_a_vote_whose_lost_channels_trip_is_left_alone(degrade: str) -> None:
    # `none` gives bad where it could decide, and a trip trips on bad.
    assert found_in(VOTE + degrade) == []


def test_an_interlock_is_no_trip() -> None:
    assert found_in(f"{VOTE} degrade drop", Kind="Interlock", OnBad="ignore") == []


@pytest.mark.parametrize("policy", ["hold", "ignore"])
def test_a_trip_that_does_not_trip_on_lost_channels_is_warned_of(policy: str) -> None:
    found = found_in("A.U > 900", OnBad=policy)
    assert [(one.rule, one.key) for one in found] == [
        ("trip-on-bad", "Automatic_Controls.Hot.OnBad")
    ]
    assert f'"{policy}"' in found[0].message
    assert "gatepost prove" in found[0].message


def test_equal_warnings_of_many_trips_are_one_line() -> None:
    channels = {**CHANNELS, **{f"B.X{at}": {} for at in range(20)}}
    controls = {
        f"C{at}": {
            "When": f"vote(1, B.X{at} > 5) degrade drop",
            "Effects": CLOSE,
            "OnBad": "ignore",
        }
        for at in range(20)
    }
    _, found = compile_site(make_site(channels, controls={**STOP, **controls}))
    assert len(found) == 40
    assert sorted(rules_of(folded(found))) == ["trip-on-bad", "vote-degrade"]


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("when", "how"),
    [
        ("A.T > 900", "never"),
        ("A.T >= 900", "never"),
        ("900 < A.T", "never"),
        ("A.T == 900", "never"),
        ("A.T != 900", "always"),
        ("A.T < 900", "always"),
        ("A.T <= 1200 [K]", "always"),
        ("A.T < -5", "never"),
        ("A.T > -5", "always"),
        ("A.Low < 5", "never"),
        ("not (A.T > 900 hysteresis 5 for 5s)", "never"),
    ],
)
def test_a_limit_outside_of_the_range_is_warned_of(when: str, how: str) -> None:
    found = found_in(when)
    assert rules_of(found) == ["limit-outside-range"]
    assert f"is {how} true" in found[0].message
    assert "nan" not in found[0].message


@pytest.mark.parametrize(
    "when",
    ["A.T > 850", "A.T >= 0", "A.T < 1100 [K]", "A.U > 9000", "A.Low > 9000", "A.T + 100 > 900"],
)
def test_a_limit_in_the_range_is_left_alone(when: str) -> None:
    assert found_in(when) == []
