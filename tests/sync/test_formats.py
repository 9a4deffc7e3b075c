"""Which form a link speaks, and the form of frames as they stand in the store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from config.link import BrokerEntry, LinkEntry
from gateway.core.clock import ManualClock
from sync import wire
from sync.forms.formats import form_of
from sync.forms.forms import Form, Publication
from sync.forms.gatepost_form import GatepostForm
from sync.forms.json_form import JsonForm
from sync.forms.pubsub_form import PubSubForm
from sync.forms.sparkplug import SparkplugForm
from sync.link.latest import Latest
from sync.store.store import StoredFrame
from sync.topics import client_id
from tests.sync.support import BIRTH, birth_bytes


def made(name: str, entry: BrokerEntry) -> Form:
    return form_of(name, entry, "lab", ManualClock(), Latest(), Path("/nowhere"))


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (BrokerEntry(), GatepostForm),
        (LinkEntry(Format="gatepost"), GatepostForm),
        (LinkEntry(), JsonForm),
        (LinkEntry(Format="opcua"), PubSubForm),
        (LinkEntry(Format="sparkplug"), SparkplugForm),
    ],
)
def test_the_format_decides(entry: BrokerEntry, kind: type) -> None:
    assert type(made("x", entry)) is kind


def test_links_to_one_broker_are_different_clients() -> None:
    ids = {made("cloud", BrokerEntry()).opening().client_id}
    for kind in ("gatepost", "json", "opcua", "sparkplug"):
        entry = LinkEntry.model_validate({"Format": kind})
        ids.add(made(kind, entry).opening().client_id)
    assert ids == {
        "gatepost-lab",
        "gatepost-lab:gatepost",
        "gatepost-lab:json",
        "gatepost-lab:opcua",
        "gatepost-lab:sparkplug",
    }


def test_sparkplug_has_its_names_from_the_site() -> None:
    will = made("x", LinkEntry(Format="sparkplug")).opening().will
    assert will is not None and will.topic == "spBv1.0/lab/NDEATH/gatepost"
    entry = LinkEntry(Format="sparkplug", Group="G", Node="N", PrimaryHost="H")
    assert made("x", entry).opening().subscriptions == ("spBv1.0/G/NCMD/N", "spBv1.0/STATE/H")


def test_only_a_sparkplug_link_takes_the_memory_of_protocol_buffers() -> None:
    code = (
        "import sync.forms.formats, sync.link.forward, sys; print('google.protobuf' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_frames_and_births_go_as_they_are() -> None:
    form = made("cloud", BrokerEntry())
    death = Publication("gatepost/lab/birth", wire.encode_death("lab"), retain=True)
    opening = form.opening()
    assert opening.will == death and opening.subscriptions == ("gatepost/lab/ack",)
    assert not made("cloud", BrokerEntry(Ack="broker")).opening().subscriptions
    body = birth_bytes()
    for current in (True, False):
        assert form.born(BIRTH, body, current=current) == (
            Publication("gatepost/lab/birth", body, retain=current),
        )
    frame = StoredFrame(1, 7, 1, 2, 2, BIRTH, b"frame")
    assert form.frame(frame, live=True) == (Publication("gatepost/lab/frames", b"frame"),)
    assert form.frame(frame, live=False) == (Publication("gatepost/lab/backlog", b"frame"),)
    assert form.farewell() == (death,)
    assert (form.begun(), form.due(), form.ready, form.problem) == ((), (), True, "")
    assert form.received("gatepost/lab/ack", b"") is None


def test_no_two_clients_share_a_name_and_none_has_a_dot() -> None:
    ids = [
        client_id("plant"),
        client_id("plant", "north"),
        client_id("plant-north"),
        client_id("plant.north"),
        client_id("plant", "bus"),
        client_id("plant", "site", "bus"),
    ]
    assert len(set(ids)) == len(ids)
    assert not [name for name in ids if "." in name]
