"""``prove`` as a person runs it: what it prints, the cases it writes, how it ends."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import kernel_cache
from gateway.cli.prove import history_lines, write_csv
from safety.prove_whole import Table

LAB = Path("config/sites/soec-lab")
Gatepost = Callable[..., Any]


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """The demo site with a trip that ignores lost inputs."""
    site = tmp_path / "site"
    shutil.copytree(LAB, site)
    file = site / "SOEC_Personality_ControlStates.json"
    content = json.loads(file.read_text())
    content["Automatic_Controls"]["Control/Gas_Leak"]["OnBad"] = "ignore"
    file.write_text(json.dumps(content))
    return site


def test_a_counterexample_is_shown_written_and_replayed(
    gatepost: Gatepost, wrong: Path, tmp_path: Path
) -> None:
    cases = tmp_path / "cases"
    done = gatepost("prove", wrong, "--budget", "4s", "--case", cases)
    assert done.status == 1
    assert "With Stack.Gas_Leak = 1 known, Control/Gas_Leak would act" in done.out
    assert "refuted" in done.out
    assert done.err.splitlines()[-4].endswith(
        "2 proved, 0 sampled, 5 refuted, 6 start-up only; 1 counterexample"
    )
    names = {path.name for path in cases.iterdir()}
    assert names == {"case-1.csv", "case-1-known.csv", "case-1.md"}
    assert "| Stack.Gas_Leak | 0 | bad | bad |" in (cases / "case-1.md").read_text()
    with (cases / "case-1.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["Stack.Gas_Leak"] == "bad"
    without = json.loads(gatepost("replay", wrong, cases / "case-1.csv", "--json").out)
    known = json.loads(gatepost("replay", wrong, cases / "case-1-known.csv", "--json").out)
    assert "Control/Gas_Leak" not in json.dumps(without["events"])
    assert "Control/Gas_Leak" in json.dumps(known["events"])


def test_json_says_the_same(gatepost: Gatepost, wrong: Path) -> None:
    done = gatepost("prove", wrong, "--budget", "4s", "--json")
    assert done.status == 1
    report = json.loads(done.out)
    (found,) = report["counterexamples"]
    assert (found["claim"], found["rule"]) == ("loss", "Control/Gas_Leak")
    assert found["history"][-1]["inputs"]["Stack.Gas_Leak"] == "bad"
    assert found["known"][-1]["inputs"]["Stack.Gas_Leak"] == "1"
    by_tag = {output["tag"]: output for output in report["outputs"]}
    assert by_tag["Stack.Hydrogen_Valve"]["result"] == "refuted"
    assert by_tag["VFD_1.RUN_STOP"]["result"] == "proved"
    assert by_tag["VFD_1.RUN_STOP"]["causes"][0]["proof"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prove", LAB, "--budget", "soon"), "--budget soon: a duration such as"),
        (("prove", LAB, "--within", "-1"), "--within -1: a duration such as"),
        (("prove", LAB, "--seed", "-1"), "0 or more"),
        (("prove", "no/such/site"), "no such site folder"),
        (("explain", "no/such/site", "A.b"), "no such site folder"),
    ],
)
def test_wrong_words_are_refused(gatepost: Gatepost, words: tuple[object, ...], said: str) -> None:
    done = gatepost(*words)
    assert done.status == 2
    assert said in done.err


def test_explain_needs_a_running_gateway(gatepost: Gatepost, tmp_path: Path) -> None:
    done = gatepost("explain", LAB, "PSU.Output_State", "--state", tmp_path)
    assert done.status == 2
    assert "no gateway is running here" in done.err


def test_a_site_with_errors_is_not_proved(gatepost: Gatepost, wrong: Path) -> None:
    file = wrong / "SOEC_Personality_ControlStates.json"
    content = json.loads(file.read_text())
    content["Automatic_Controls"]["Control/Gas_Leak"]["Method"] = "Nothing"
    content["Automatic_Controls"]["Control/Gas_Leak"]["When"] = "Stack.Nothing > 1"
    file.write_text(json.dumps(content))
    done = gatepost("prove", wrong)
    assert done.status == 2
    assert "reference-undefined" in done.err


def test_machine_code_comes_from_no_folder_that_others_may_write(
    gatepost: Gatepost, wrong: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def refuse(state: Path) -> None:
        assert state.parent == Path(tempfile.gettempdir())
        assert not any(state.iterdir())
        seen.append(state.stat().st_mode & 0o777)
        raise kernel_cache.KernelError("no kernel here")

    monkeypatch.setattr(kernel_cache, "load", refuse)
    done = gatepost("prove", wrong)
    assert (done.status, seen) == (2, [0o700])
    assert "no kernel here" in done.err


def test_a_value_that_is_never_again_is_written_with_its_status(tmp_path: Path) -> None:
    rows = ((0, ("never", "1")), (10**8, ("5", "bad")), (2 * 10**8, ("never", "1")))
    write_csv(tmp_path / "a.csv", Table(("A.a", "A.b"), rows, ("", "", "")))
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "time,tag,value,status"
    assert lines[1].endswith("A.a,bad,BadWaitingForInitialData")
    assert lines[4].endswith("A.b,bad,BadNoCommunication")
    write_csv(tmp_path / "b.csv", Table(("A.a", "A.b"), rows[:2], ("", "")))
    lines = (tmp_path / "b.csv").read_text().splitlines()
    assert lines[0] == "time,A.a,A.b"
    assert lines[1].endswith("Z,,1")


def test_inputs_that_matter_are_shown_though_they_never_change() -> None:
    rows = ((10**8, ("1", "90", "3")), (2 * 10**8, ("bad", "90", "3")))
    shown = Table(("A.a", "A.b", "A.c"), rows, ("", ""), (), ("A.a", "A.b"))
    assert history_lines(shown) == [
        ["INPUT", "0.1 s", "0.2 s"],
        ["A.a", "1", "bad"],
        ["A.b", "90", "90"],
    ]
