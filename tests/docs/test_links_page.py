"""The examples of docs/links.md are right, and its table of figures is what a link says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from config.check import check_site
from config.link import LINKS_MAX, BrokerEntry, LinkFile
from config.load import load_site
from gateway.core.clock import SystemClock
from sync.link.forward import Forwarder
from tests.config.building import CONFIG, change, mini_files, write_site

PAGE = Path(__file__).parents[2] / "docs" / "links.md"
EXAMPLE, ALARM = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL))


def test_the_example_is_a_whole_file_without_mistakes_of_its_links(tmp_path: Path) -> None:
    assert len(LinkFile.model_validate(EXAMPLE).links()) == 4
    files = mini_files()
    files["link.json"] = EXAMPLE
    change(files, CONFIG, "SystemTags.Personality", "Mini_Personality.json")
    files["Mini_Personality.json"] = {"Components": {"AlarmStates": "Mini_AlarmStates.json"}}
    files["Mini_AlarmStates.json"] = ALARM
    change(files, "link.json", "Links.customer.Points", ["Meter.*"])  # Opto isn't in this site
    site, findings = load_site(write_site(tmp_path, files))
    assert findings == []
    assert site is not None
    # The files with secrets aren't on this machine.
    assert {f.rule for f in check_site(site)} == {"password-file-missing"}
    tags = {point.tag for point in site.points}
    assert {"Gateway.Broker_Connected_customer", "Gateway.Backlog_scada"} <= tags
    assert "Alarms.Customer_Away" in tags


def test_the_figures_of_a_link_are_listed() -> None:
    made = Forwarder(None, "cloud", BrokerEntry(), "lab", SystemClock())  # type: ignore[arg-type]
    listed = re.search(r"under `link.links`:\n(.*?)\n\n", PAGE.read_text(), re.DOTALL)
    assert listed is not None
    assert re.findall(r"`(\w+)`", listed[1]) == list(made.status())


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    words = {8: "Eight"}
    assert f"{words[LINKS_MAX]} active links" in PAGE.read_text()
