"""Which form a link of the configuration speaks."""

from __future__ import annotations

from pathlib import Path

from config.link import CLOUD, NODE, BrokerEntry, LinkEntry
from gateway.core.clock import Clock
from sync import topics
from sync.forms.forms import Form
from sync.forms.gatepost_form import GatepostForm
from sync.forms.json_form import JsonForm
from sync.forms.pubsub_form import GROUP, PubSubForm
from sync.link.latest import Latest


def form_of(
    name: str, entry: BrokerEntry, site: str, clock: Clock, latest: Latest, folder: Path
) -> Form:
    """The form of the link `name`.

    site    the site's name in topics
    latest  what the link process knows of all points
    folder  the state folder; a form may keep a small file there

    Raises ValueError where `site` can't stand in a topic.
    """
    client_id = topics.client_id(site, *(() if name == CLOUD else (name,)))
    if not isinstance(entry, LinkEntry) or entry.Format == "gatepost":
        heard = entry.Ack == "historian"
        return GatepostForm(site, client_id=client_id, acknowledged=heard)
    if entry.Format == "json":
        return JsonForm(site, latest, client_id=client_id, topic=entry.Topic, points=entry.Points)
    if entry.Format == "opcua":
        return PubSubForm(
            site,
            latest,
            clock,
            client_id=client_id,
            group=entry.Group or GROUP,
            points=entry.Points,
        )
    # protobuf takes 6 MB that only such a link needs
    from sync.forms.sparkplug import SparkplugForm

    return SparkplugForm(
        latest,
        clock,
        client_id=client_id,
        group=entry.Group or site,
        node=entry.Node or NODE,
        host=entry.PrimaryHost,
        points=entry.Points,
        number_file=folder / f"sparkplug-{name}.json",
    )
