"""``bypass``, ``reset`` and ``states`` against a real field process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config import status as codes
from tests.gateway.running import Running
from tests.gateway.sites import CONTROLS, Rig

Gatepost = Callable[..., Any]

SITE_CONTROLS: dict[str, Any] = {
    **CONTROLS,
    "Automatic_Controls": {
        **CONTROLS["Automatic_Controls"],
        "Control/OverTemp": {
            "When": "Rig.Temperature >= 900",
            "Method": "Close",
            "BypassMax": 3600,
        },
        "Control/Other": {"When": "Rig.Temperature >= 2000", "Method": "Close"},
    },
    "Control_States": {
        "Stack/Operation": {
            "Initial": "Off",
            "States": {"Off": {}, "Heat_Up": {}, "Running": {}},
            "Transitions": [
                {
                    "From": "Off",
                    "To": "Heat_Up",
                    "By": ["operator"],
                    "When": "Rig.Temperature < 100",
                },
                {"From": "Heat_Up", "To": "Running", "When": "Rig.Temperature > 500"},
                {
                    "From": "Running",
                    "To": "Off",
                    "When": "Rig.Temperature > 1000 or Rig.Temperature < 50 or Controls.E_Stop",
                },
            ],
        }
    },
}


class Site:
    """A field process in a thread of its own, and its device."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.running: Running | None = None

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(40)

    async def start(self) -> None:
        await self.rig.start()
        text = json.dumps(SITE_CONTROLS)
        (self.rig.folder / "Controls.json").write_text(text, encoding="utf-8")
        self.running = Running(self.rig)
        await self.running.ready()

    async def heat(self, value: float) -> None:
        """Until the field has seen a temperature and scanned behind it."""
        assert self.running is not None
        self.rig.server.faults.silent = False
        self.rig.temperature(value)
        while self.running.value("Rig.Temperature") != value:
            await asyncio.sleep(0.01)
        count = self.running.field.statistics.count
        while self.running.field.statistics.count < count + 2:
            await asyncio.sleep(0.01)

    async def lose(self) -> None:
        """Until the device's points are bad; the next `heat` brings them back."""
        assert self.running is not None
        self.rig.server.faults.silent = True
        while self.running.status("Rig.Temperature") < codes.BAD:
            await asyncio.sleep(0.01)
        count = self.running.field.statistics.count
        while self.running.field.statistics.count < count + 2:
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self.running is not None:
            await self.running.end()
        await self.rig.stop()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One field process for all tests of this module."""
    made = Site(tmp_path_factory.mktemp("protect"))
    try:
        made.do(made.start())
        yield made
        made.do(made.stop())
    finally:
        made.end()


@pytest.fixture
def call(gatepost: Gatepost, site: Site) -> Gatepost:
    """A command on the running site."""

    def run(command: str, *words: Any) -> Any:
        return gatepost(command, site.rig.folder, *words, "--state", site.rig.state)

    return run


def test_a_bypass_is_begun_listed_and_ended(call: Gatepost, site: Site) -> None:
    done = call("bypass", "Control/OverTemp", "--for", "1h", "--comment", "probe is changed")
    assert done.status == 0, done.err
    assert "verified" in done.out
    listed = call("bypass")
    for words in ("Control/OverTemp", "1 h", "probe is changed", "command line"):
        assert words in listed.out
    assert "probe is changed" in call("status").out
    (entry,) = json.loads(call("bypass", "--json").out)
    assert entry["name"] == "Control/OverTemp" and entry["held_back"] is False
    assert call("bypass", "overtemp", "--end").status == 0
    assert "nothing is bypassed" in call("bypass").out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("OverTemp",), 2, "--for DURATION or --end"),
        (("OverTemp", "--for", "1h", "--end"), 2, "--for DURATION or --end"),
        (("OverTemp", "--for", "1h"), 1, "at least 3 characters (--comment)"),
        (("OverTemp", "--for", "1h", "--comment", " x "), 1, "at least 3 characters (--comment)"),
        (("E_Stop", "--for", "1s", "--comment", "x"), 1, "emergency stop"),
        (("Other", "--for", "1s", "--comment", "x"), 1, "can't be bypassed: it has no BypassMax"),
        (("OverTemp", "--for", "soon", "--comment", "why not"), 2, "500ms"),
        (("OverTmp", "--for", "1h", "--comment", "why not"), 2, 'mean "Controls.OverTemp"'),
        (("--end",), 2, "name the CONTROL"),
        (("OverTemp", "--for", "2h", "--comment", "why not"), 1, "at most 3600 s"),
        (("E_Stop", "--for", "1s", "--comment", "why not"), 1, "emergency stop"),
        (("OverTemp", "--end"), 1, "not bypassed"),
    ],
)
def test_a_bypass_that_cannot_be_says_why(
    call: Gatepost, words: tuple[str, ...], status: int, said: str
) -> None:
    done = call("bypass", *words)
    assert done.status == status
    assert said in done.out + done.err


def test_a_reset_says_what_it_released_and_what_stays(call: Gatepost, site: Site) -> None:
    site.do(site.heat(950.0))
    done = call("reset")
    assert done.status == 1
    assert "still active: Control/OverTemp" in done.out
    site.do(site.heat(20.0))
    done = call("reset")
    assert done.status == 0
    assert "released: Control/OverTemp" in done.out
    assert "nothing was latched" in call("reset").out


def test_states_are_shown_and_asked_for(call: Gatepost, site: Site) -> None:
    shown = call("states").out
    assert "Stack/Operation (States.Stack_Operation): Off, for" in shown
    assert "nothing: an operator may ask for it now" in shown
    refused = call("states", "Stack/Operation", "Running")
    assert refused.status == 1 and "refused" in refused.out
    done = call("states", "stack_operation", "heat_up")
    assert done.status == 0, done.out + done.err
    assert "verified: States.Stack_Operation = Heat_Up" in done.out
    (machine,) = json.loads(call("states", "Stack/Operation", "--json").out)
    assert machine["state"] == "Heat_Up"


def test_what_comes_by_itself_says_what_it_waits_for(call: Gatepost, site: Site) -> None:
    shown = " ".join(call("states").out.split())
    assert "Running comes by itself when Rig.Temperature > 500" in shown
    assert "Rig.Temperature > 500 is false: Rig.Temperature is 20 degC" in shown
    assert "nobody" not in shown
    assert "no transition leads there from Heat_Up" in shown
    assert "Stack/Operation" in call("status").out and "Heat_Up" in call("status").out
    site.do(site.lose())
    shown = " ".join(call("states").out.split())
    assert "Rig.Temperature is bad (Bad" in shown and "last value 20 degC" in shown
    site.do(site.heat(21.0))
    site.do(site.heat(600.0))
    wanted = call("explain", "States.Stack_Operation").out
    assert "needed: one of:" in wanted and "- Controls.E_Stop active" in wanted
    site.do(site.heat(20.0))
    told = call("explain", "States.Stack_Operation").out
    assert "of which held: Rig.Temperature < 50" in told
    call("reset")


def test_an_emergency_stop_says_what_it_drove_and_what_ended(call: Gatepost) -> None:
    call("reset")
    commanded = call("write", "Rig.Valve", "on")
    assert commanded.status == 0, commanded.out + commanded.err
    done = call("estop")
    assert done.status == 0, done.out + done.err
    assert "verified: Gateway.E_Stop = on (1)" in done.out
    assert "verified: Rig.Valve = closed (0), by Control/E_Stop" in done.out
    assert "no output was driven anew; active: Control/E_Stop" in call("estop").out
    given = call("estop", "--release")
    assert given.status == 0 and "still latched: " in given.out and "Control/E_Stop" in given.out
    done = call("reset")
    assert done.status == 0
    assert "trips ended these setpoints, command them again: Rig.Valve = open" in done.out
    assert "command them again" not in call("reset").out
    assert "verified: Gateway.E_Stop = 0" in call("write", "Gateway.E_Stop", "off").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("Stack/Operations",), 'mean "Stack/Operation"'),
        (("Stack/Operation", "Runing"), 'mean "Running"'),
        (("Furnace", "Off"), "no machine Furnace"),
    ],
)
def test_unknown_names_suggest_the_nearest(
    call: Gatepost, words: tuple[str, ...], said: str
) -> None:
    done = call("states", *words)
    assert done.status == 2
    assert said in done.err
