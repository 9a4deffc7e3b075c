"""The form ``gatepost``: frames and births as they stand in the store (docs/wire.md)."""

from __future__ import annotations

from collections.abc import Sequence

from sync import topics, wire
from sync.forms.forms import Opening, Publication, Reply
from sync.store.store import StoredFrame


class GatepostForm:
    """See `sync.forms.forms.Form`; the forwarder itself takes acknowledgements."""

    ready = True
    problem = ""

    def __init__(self, site: str, *, client_id: str, acknowledged: bool) -> None:
        """`acknowledged`: an ingest confirms what it holds. Raises ValueError (site's name)."""
        self._site = topics.check_site(site)
        self._client_id = client_id
        self._acknowledged = acknowledged
        self._death = Publication(topics.topic(site, "birth"), wire.encode_death(site), retain=True)

    def opening(self) -> Opening:
        """The death as last will."""
        heard = (topics.topic(self._site, "ack"),) if self._acknowledged else ()
        return Opening(self._client_id, self._death, heard)

    def begun(self) -> Sequence[Publication]:
        """Nothing: the birth in force follows."""
        return ()

    def born(self, name: str, body: bytes, *, current: bool) -> Sequence[Publication]:
        """The birth, retained where it is the one in force."""
        return (Publication(topics.topic(self._site, "birth"), body, retain=current),)

    def knows(self, name: str) -> bool:
        """Always: the far side keeps them."""
        return True

    def due(self) -> Sequence[Publication]:
        """Nothing: rows and births say it all."""
        return ()

    def frame(self, frame: StoredFrame, *, live: bool) -> Sequence[Publication]:
        """One publication a frame.

        What the broker has taken leaves the store and may reach a historian later than this; a
        base above it would say that it never comes.
        """
        channel = "frames" if live else "backlog"
        payload = frame.payload if self._acknowledged else wire.without_base(frame.payload)
        return (Publication(topics.topic(self._site, channel), payload),)

    def received(self, topic: str, payload: bytes) -> Reply | None:
        """Nothing of it is this form's: the forwarder takes the acknowledgements."""
        return None

    def farewell(self) -> Sequence[Publication]:
        """A clean end cancels the last will, so the death is published by hand."""
        return (self._death,)
