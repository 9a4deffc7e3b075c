"""What a form is: it turns stored frames into the messages of one link, and says what comes in.

Four forms exist: ``gatepost`` (gatepost_form.py), ``json`` (json_form.py), ``opcua``
(pubsub_form.py) and ``sparkplug`` (sparkplug.py); `sync.forms.formats` picks one. A form decides
and never waits: the forwarder connects, publishes, waits for the broker and reads the store.

The order of a session, as the forwarder keeps it:

1. `opening()` before every try to connect: client id, last will and subscriptions.
2. The session is connected and subscribed: `begun()`, and its publications go out.
3. While `ready` is False, nothing but what `received()` and `begun()` ask for goes out.
4. As soon as it is True, and whenever the birth in force changes: `born()` with the birth in force.
5. Before the first frame of a session that refers to another birth, and before any frame whose
   birth the form no longer `knows()`: `born()` with that.
6. While it is ready, on every turn and before frames: `due()`, what it has to say unasked.
7. `frame()` for every frame of the live lane and of the backlog.
8. `received()` for every message that came in; its publications go out, and where it says
   `end`, the session is ended in order and a new one begun.
9. A clean end: the publications of `farewell()`, then DISCONNECT.

Publications go to the broker in the order in which the form returned them, over all calls: forms
may number them. A frame is **delivered** when every publication of it is: those of QoS 1 with
their PUBACK; those of QoS 0 with the first answer of the broker to something that was sent after
them in the same session (`MqttSession.fence`), because a broker reads what a connection brings in
order. Until then the frame stays in the store; when the session breaks before, it goes out again
as backlog. A frame without publications (none of its points is chosen) is delivered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sync.store.store import StoredFrame


@dataclass(frozen=True, slots=True)
class Publication:
    """A message for the broker."""

    topic: str
    payload: bytes
    qos: Literal[0, 1] = 1
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """How a session is opened.

    will           what the broker publishes when the session breaks
    subscriptions  topics that the form wants to hear, each with QoS 1
    """

    client_id: str
    will: Publication | None = None
    subscriptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a message that came in asks for.

    publications  they go out at once, in this order
    end           end the session in order, without `farewell()`, and begin a new one
    """

    publications: tuple[Publication, ...] = ()
    end: bool = False


class Form(Protocol):
    """One per link; kept over sessions. Nothing of it raises but what is said."""

    @property
    def ready(self) -> bool:
        """False while births and frames have to wait in the store (the consumer is away)."""

    @property
    def problem(self) -> str:
        """Why the form can't send, or leaves something out, in words; empty where all is well."""

    def opening(self) -> Opening:
        """Call it once for every try to connect: forms may number the tries."""

    def begun(self) -> Sequence[Publication]:
        """The session is connected and subscribed."""

    def born(self, name: str, body: bytes, *, current: bool) -> Sequence[Publication]:
        """Learn the definitions of a birth.

        name     hash of the birth
        body     as `sync.wire.encode_birth` made it; what can't be read is left to `problem`
        current  it is the one in force; the others are needed by a backlog only
        """

    def knows(self, name: str) -> bool:
        """False for a birth that was `born` and is forgotten: forms remember a limited number."""

    def due(self) -> Sequence[Publication]:
        """What has to be said now: the field process is gone, or came back (`sync.link.latest`)."""

    def frame(self, frame: StoredFrame, *, live: bool) -> Sequence[Publication]:
        """A frame as publications; `born` was called with its birth if the store has that.

        live  of the live lane; False: what an outage left behind
        """

    def received(self, topic: str, payload: bytes) -> Reply | None:
        """A message that came in; None where its topic is none of the form's subscriptions."""

    def farewell(self) -> Sequence[Publication]:
        """The session is about to end in order."""
