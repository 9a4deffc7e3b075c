"""Commands and schedules for gateways: signed, published, and followed by their receipts.

For services of the cloud and for ``gatepost send``::

    async with CommandClient(address, Signer("market", load_key(path), "bidding"), clock) as client:
        message = client.message("soec-lab", COMMAND, write, life_ns=60 * 10**9)
        async for receipt in client.send(message, wait_s=10):
            print(receipt["step"], receipt["reason"])

Receipts on the topic come at once and may be lost; the same ones are in the gateway's frames, and
what became of a message can be asked for (`ask`). After `LinkLost`, make a new client, and ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.core.clock import Clock
from sync import topics
from sync.errors import LinkError, LinkLost
from sync.link.mqtt import BrokerAddress, MqttSession
from sync.remote import receipts, signed
from sync.remote.signed import COMMAND, QUERY, SCHEDULE, Envelope
from sync.wire import WireError

RECEIPTS_MAX: Final = 1_000  # of one message that wait to be taken
MESSAGES_MAX: Final = 1_000  # whose receipts are waited for at a time
QUERY_LIFE_NS: Final = 60 * 10**9
UNPROVEN_S: Final = 1.0  # how long a refusal that names no proven sender is doubted
LAST_STEPS: Final = ("refused", "verified", "failed", "released")
CHANNELS: Final[Mapping[str, str]] = {
    COMMAND: "commands",
    QUERY: "commands",
    SCHEDULE: "schedule",
}

log = logging.getLogger(__name__)


class TooManyMessages(Exception):
    """Wait for the receipts of those that were sent."""


class QueryRefused(Exception):
    """A gateway does not answer this question; the message is its reason."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs: the key and its name in the gateways' keys.json; who asks, for the audit."""

    key: str
    private: Ed25519PrivateKey
    source: str


@dataclass(frozen=True, slots=True)
class Message:
    """A signed message; sent again as it is, it runs at most once all the same."""

    envelope: Envelope
    data: bytes

    @property
    def parts(self) -> tuple[str, ...]:
        """What the receipts of its parts have as `command`: one for each write, or its id."""
        if self.envelope.type != COMMAND:
            return (self.envelope.id,)
        count = len(signed.writes_of(self.envelope))
        return tuple(f"{self.envelope.id}/{number}" for number in range(1, count + 1))

    @property
    def brief(self) -> frozenset[str]:
        """Those of `parts` that are over once they are accepted: what is given back, a schedule."""
        if self.envelope.type != COMMAND:
            return frozenset(self.parts)
        pairs = zip(self.parts, signed.writes_of(self.envelope), strict=True)
        return frozenset(part for part, write in pairs if write.release)


class CommandClient:
    """One session with a broker, for any number of sites. An asynchronous context manager."""

    def __init__(
        self,
        address: BrokerAddress,
        signer: Signer,
        clock: Clock,
        *,
        connect: Callable[..., MqttSession] = MqttSession,
        timeout_s: float = 5.0,
    ) -> None:
        """`connect` makes the session, which is used once."""
        self._signer = signer
        self._clock = clock
        client_id = f"gatepost-send-{clock.new_id()[:12]}"
        self._session = connect(address, client_id=client_id, timeout_s=timeout_s)
        self._sites: set[str] = set()
        self._waiting: dict[str, asyncio.Queue[dict[str, Any] | None]] = {}
        self._listener: asyncio.Task[None] | None = None
        self._error: LinkError | None = None

    async def __aenter__(self) -> Self:
        """Connects. Raises LinkError."""
        await self._session.__aenter__()
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnects."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self._session.__aexit__(kind, error, trace)

    def message(self, site: str, kind: str, payload: Any, *, life_ns: int) -> Message:
        """A signed message of type `kind` that expires `life_ns` from now. Raises WireError."""
        now_ns = self._clock.utc_ns()
        envelope = Envelope(
            id=self._clock.new_id(),
            time_ns=now_ns,
            source=self._signer.source,
            destination=site,
            type=kind,
            expires_ns=now_ns + life_ns,
            payload=payload,
        )
        if kind == COMMAND:
            signed.writes_of(envelope)
        signed.tags_of(envelope)
        body = signed.encode(envelope)
        return Message(envelope, signed.sign(body, self._signer.key, self._signer.private))

    async def send(
        self, message: Message, *, wait_s: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Publish, then yield the receipts until each part has its last one, or for `wait_s`.

        A part of a command is over when it is refused, failed, released, or verified by
        read-back; what is given back, and a schedule, when it is accepted. What comes later is in
        the gateway's frames. Raises LinkError, TooManyMessages.
        """
        envelope = message.envelope
        async with self._listened(envelope.id, envelope.destination) as arrived:
            topic = topics.topic(envelope.destination, CHANNELS[envelope.type])
            await self._session.publish(topic, message.data)
            left, taken = set(message.parts), False
            doubted: dict[str, Any] | None = None
            deadline_ns = self._in(wait_s)
            while left:
                until_s = UNPROVEN_S if doubted is not None else wait_s
                receipt = await self._next(arrived, min(deadline_ns, self._in(until_s)))
                if receipt is None:
                    if doubted is not None:
                        yield doubted
                    return
                doubtful = "claimed" in receipt or bool(receipt.get("repeated"))
                if doubtful:
                    doubted = None if taken else receipt
                    continue
                doubted = None
                taken = taken or receipt["step"] == "taken"
                yield receipt
                if receipt["command"] == envelope.id and receipt["step"] in ("refused", "failed"):
                    return
                if receipt["step"] in LAST_STEPS or (
                    receipt["step"] == "accepted" and receipt["command"] in message.brief
                ):
                    left.discard(receipt["command"])

    async def ask(
        self, site: str, ids: Sequence[str], *, wait_s: float
    ) -> dict[str, dict[str, Any]]:
        """What became of messages: the gateway's answer for each id; none where it didn't answer.

        Raises LinkError, WireError; QueryRefused, e.g. where the key may not send a query.
        """
        question = self.message(site, QUERY, {"commands": list(ids)}, life_ns=QUERY_LIFE_NS)
        found: dict[str, dict[str, Any]] = {}
        async with self._listened(question.envelope.id, site) as arrived:
            await self._session.publish(topics.topic(site, CHANNELS[QUERY]), question.data)
            deadline_ns = self._in(wait_s)
            while len(found) < len(set(ids)):
                receipt = await self._next(arrived, deadline_ns)
                if receipt is None:
                    break
                if receipt["step"] == "refused" and "answers" not in receipt:
                    raise QueryRefused(str(receipt["reason"]))
                found[str(receipt["command"])] = receipt
        return found

    # ------------------------------------------------------------ receipts

    @contextlib.asynccontextmanager
    async def _listened(
        self, name: str, site: str
    ) -> AsyncIterator[asyncio.Queue[dict[str, Any] | None]]:
        """Receipts of a message, from before it is published on."""
        if self._error is not None:
            raise self._error
        if len(self._waiting) >= MESSAGES_MAX:
            raise TooManyMessages(f"{MESSAGES_MAX} messages wait for their receipts already")
        if site not in self._sites:
            await self._session.subscribe([topics.topic(site, "receipts")])
            self._sites.add(site)
        arrived = self._waiting[name] = asyncio.Queue(RECEIPTS_MAX)
        try:
            yield arrived
        finally:
            del self._waiting[name]

    def _in(self, seconds: float) -> int:
        return self._clock.monotonic_ns() + round(seconds * 1e9)

    async def _next(
        self, arrived: asyncio.Queue[dict[str, Any] | None], deadline_ns: int
    ) -> dict[str, Any] | None:
        """The next receipt; None at the deadline. Raises LinkError where the session broke."""
        try:
            async with asyncio.timeout((deadline_ns - self._clock.monotonic_ns()) / 1e9):
                receipt = await arrived.get()
        except TimeoutError:
            return None
        if receipt is None:
            raise self._error or LinkLost("the session with the broker ended")
        return receipt

    async def _listen(self) -> None:
        malformed = False
        try:
            async for message in self._session.messages():
                try:
                    body, _ = receipts.decode(message.payload)
                except WireError as error:
                    if not malformed:  # anybody at the broker can send thousands
                        log.warning("%s: a receipt makes no sense: %s", message.topic, error)
                    malformed = True
                    continue
                names = {str(body.get(key, "")) for key in ("command", "claimed", "answers")}
                for name in {name.partition("/")[0] for name in names}:
                    self._hand(name, {"command": "", "step": "", "reason": "", **body})
        except LinkError as error:
            self._error = error
        for arrived in self._waiting.values():
            with contextlib.suppress(asyncio.QueueFull):
                arrived.put_nowait(None)

    def _hand(self, name: str, body: dict[str, Any]) -> None:
        arrived = self._waiting.get(name)
        if arrived is not None:
            with contextlib.suppress(asyncio.QueueFull):  # the same ones are in the frames
                arrived.put_nowait(body)
