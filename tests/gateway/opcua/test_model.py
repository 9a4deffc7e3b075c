"""What the address space takes from a site."""

from __future__ import annotations

import json
from pathlib import Path

from config.load import require_site
from gateway.opcua.model import _template_tags, model_of

SITES = Path(__file__).parents[3] / "config" / "sites"


def test_a_site_gives_places_kinds_makers_and_rules() -> None:
    site = require_site(SITES / "soec-lab")
    model = model_of(site)
    assert (model.site, model.hash) == (site.name, site.hash)
    assert model.equipment.keys() == site.instruments.keys()
    assert "States.Operation" in model.machines
    assert all(tag.startswith("Alarms.") for tag in model.alarms)
    for name, one in model.equipment.items():
        channels = site.instruments[name].channels
        assert one.kind == site.instruments[name].tags.EquipmentType
        assert one.decimals.keys() <= channels.keys()
        assert set(one.definitions) == {n for n, c in channels.items() if c.Expression is not None}


def test_maker_and_model_come_from_the_template_the_sites_own_first(tmp_path: Path) -> None:
    assert _template_tags(tmp_path, "enapter-el")["Manufacturer"] == "Enapter"
    own = tmp_path / "templates"
    own.mkdir()
    mine = {"TemplateTags": {"Manufacturer": "Us", "Model": "One"}}
    (own / "enapter-el.json").write_text(json.dumps(mine))
    assert _template_tags(tmp_path, "enapter-el")["Manufacturer"] == "Us"
    (own / "broken.json").write_text("{")
    assert _template_tags(tmp_path, "broken") == {}
    assert _template_tags(tmp_path, None) == {}
    assert _template_tags(tmp_path, "none") == {}
