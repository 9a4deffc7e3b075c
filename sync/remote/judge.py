"""Whether a message from outside counts: signature, key, address, time, rights. Pure.

Nothing here waits, and nothing is remembered: the ids of messages are in handled.py, and inbox.py
carries out what is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from config.command_keys import CommandKey, revoked_or_out
from gateway.core.clock import UTC_PLAUSIBLE_NS
from sync.plain import WireError
from sync.remote import signed
from sync.remote.signed import Envelope, Signed

SKEW_NS: Final = 60 * 10**9  # how far a service's clock may be ahead of the gateway's
STEP_NS: Final = 2 * 10**9  # a clock that goes back further than this has stepped
DOUBT_NS: Final = 600 * 10**9  # how long the time before a step back is believed beside the new
DRIFT: Final = 5_000  # a monotonic clock gains less than one in so many

REASON_CHARS_MAX: Final = 300
UNPROVEN_BYTES_MAX: Final = 16_384

# Which types of messages come on which channel.
CHANNELS: Final[Mapping[str, tuple[str, ...]]] = {
    "commands": (signed.COMMAND, signed.QUERY),
    "schedule": (signed.SCHEDULE,),
}


class Wall:
    """What time it is, never earlier than can be known.

    Three things bound it from below: the machine's clock; for `DOUBT_NS` behind a step back of the
    clock, the time as it was before; and the latest signed time of a message, less `SKEW_NS`, and
    what has passed since it was learned. Expiry is judged by the latest of them, so a clock that
    goes back brings no expired message to life. And nobody who may sign can push the time forward:
    a signed time is not believed further than `SKEW_NS` ahead of it.
    """

    def __init__(self, newest_ns: int = 0) -> None:
        """`newest_ns` is the latest signed time that is known."""
        self.newest_ns = 0
        self.stepped_ns = 0  # how far the last step back went, while it is in doubt
        self._bound_ns = 0
        self._utc_ns = self._mono_ns = self._doubt_until_ns = 0
        self.learn(newest_ns)

    def learn(self, signed_ns: int) -> None:
        """A message that counts was issued at this time."""
        self.newest_ns = max(self.newest_ns, signed_ns)
        self._bound_ns = max(self._bound_ns, signed_ns - SKEW_NS)

    def now_ns(self, utc_ns: int, mono_ns: int) -> int:
        """The time to judge by, from both clocks; to be called every few seconds at least.

        Before `UTC_PLAUSIBLE_NS` where the machine's clock is not set: what is known then is a
        bound, and no time.
        """
        if self._utc_ns:
            passed_ns = mono_ns - self._mono_ns
            self._bound_ns += passed_ns - passed_ns // DRIFT
            back_ns = self._utc_ns + passed_ns - utc_ns
            if back_ns > STEP_NS:
                self.stepped_ns += back_ns
                self._doubt_until_ns = mono_ns + DOUBT_NS
            elif back_ns < -STEP_NS:  # a step forward: perhaps the one back was undone
                self.stepped_ns = max(0, self.stepped_ns + back_ns)
        self._utc_ns, self._mono_ns = utc_ns, mono_ns
        if mono_ns >= self._doubt_until_ns:
            self.stepped_ns = 0
        clock_ns = utc_ns + self.stepped_ns
        return max(clock_ns, self._bound_ns) if clock_ns >= UTC_PLAUSIBLE_NS else clock_ns


@dataclass(frozen=True, slots=True)
class Rules:
    """What messages are judged by.

    keys        the site's keys by name
    keys_fault  why no key counts at all; "" = they do
    since_ns    what was issued before may have been forgotten
    floor_ns    what expires at or before may have been forgotten
    """

    site: str
    keys: Mapping[str, CommandKey]
    keys_fault: str
    expires_max_ns: int
    since_ns: int = 0
    floor_ns: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a message is worth.

    key       the name that it claims; "" = none could be read
    envelope  what it says; None = it could not be read. Nothing of it is true unless `proven`
    proven    the key that has signed it, in force; None = nobody knows who has
    refusal   why it is refused; "" = it is not
    tags      the points that it would set
    current   it is proven, for this site and in time: nobody but the key's holder made it now, and
              its id is remembered, also where it is refused
    """

    key: str = ""
    envelope: Envelope | None = None
    proven: CommandKey | None = None
    refusal: str = ""
    tags: tuple[str, ...] = ()
    current: bool = False


class _Refused(Exception):
    """The message is refused; the text says why."""


def judge(data: bytes, channel: str, rules: Rules, now_ns: int) -> Verdict:
    """Judge a message that came on one of `CHANNELS`; whatever the bytes are, it never raises.

    now_ns  UTC by `Wall.now_ns`
    """
    try:
        message = signed.unwrap(data)
    except WireError as error:
        return Verdict(refusal=_short(f"no signed message: {error}"))
    try:
        key = _proven(message, rules, now_ns)
    except _Refused as refusal:
        return Verdict(message.key, _claimed(message.body), refusal=str(refusal))
    try:
        envelope = signed.decode(message.body)
    except WireError as error:
        return Verdict(key.name, None, key, _short(f"signed, but not readable: {error}"))
    try:
        _in_place(envelope, rules)
        _in_time(envelope, rules, now_ns)
    except _Refused as refusal:
        return Verdict(key.name, envelope, key, str(refusal))
    try:
        tags = _allowed(envelope, channel, key)
    except (_Refused, WireError) as refusal:
        return Verdict(key.name, envelope, key, _short(str(refusal)), current=True)
    return Verdict(key.name, envelope, key, "", tags, current=True)


def _claimed(body: bytes) -> Envelope | None:
    """What a body says that nobody has signed; a long one, which takes its time, is not read."""
    if len(body) > UNPROVEN_BYTES_MAX:
        return None
    try:
        return signed.decode(body)
    except WireError:
        return None


def _short(reason: str) -> str:
    """A reason may quote what came, whatever its length."""
    return reason if len(reason) <= REASON_CHARS_MAX else f"{reason[: REASON_CHARS_MAX - 3]}..."


def _proven(message: Signed, rules: Rules, now_ns: int) -> CommandKey:
    if rules.keys_fault:
        raise _Refused(rules.keys_fault)
    key = rules.keys.get(message.key)
    if key is None:
        raise _Refused(f"keys.json has no key {message.key!r}")
    if not signed.verify(message, key.public):
        raise _Refused(f"the signature is not that of the key {key.name!r} over this message")
    why = revoked_or_out(key, now_ns)
    if why:
        raise _Refused(why)
    return key


def _in_place(envelope: Envelope, rules: Rules) -> None:
    if envelope.destination != rules.site:
        raise _Refused(f"addressed to {envelope.destination!r}, and this site is {rules.site!r}")


def _in_time(envelope: Envelope, rules: Rules, now_ns: int) -> None:
    if now_ns < UTC_PLAUSIBLE_NS:
        raise _Refused("this gateway's clock is not set, so nobody can tell what has expired")
    if envelope.expires_ns <= now_ns:
        late_s = (now_ns - envelope.expires_ns) / 1e9
        raise _Refused(f"expired {late_s:.3g} s ago")
    if envelope.expires_ns <= rules.floor_ns:
        raise _Refused("it would expire before others whose ids are forgotten by now")
    if envelope.time_ns > now_ns + SKEW_NS:
        ahead_s = (envelope.time_ns - now_ns) / 1e9
        raise _Refused(f"issued {ahead_s:.3g} s ahead of this gateway's clock")
    if envelope.time_ns < rules.since_ns:
        raise _Refused("issued before this gateway began to remember ids")
    life_s = (envelope.expires_ns - envelope.time_ns) / 1e9
    if life_s * 1e9 > rules.expires_max_ns:
        most_s = rules.expires_max_ns / 1e9
        raise _Refused(f"it lives {life_s:.6g} s; Commands.ExpiresMax is {most_s:g} s")


def _allowed(envelope: Envelope, channel: str, key: CommandKey) -> tuple[str, ...]:
    """The points of a message that the key may send. Raises _Refused, WireError."""
    if envelope.type not in CHANNELS[channel]:
        raise _Refused(f"a {envelope.type} does not come on the topic {channel!r}")
    if envelope.type not in key.types:
        raise _Refused(f"the key {key.name!r} may not send a {envelope.type}")
    tags = signed.tags_of(envelope)
    if envelope.type == signed.QUERY:
        signed.asked_of(envelope)
    for tag in tags:
        if not key.may_set(tag):
            raise _Refused(f"the key {key.name!r} may not set {tag}")
    return tags
