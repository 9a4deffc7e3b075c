"""Receipts of the inbox: the bodies of their events and their form on the topic. Pure.

They have the keys of every receipt (`command`, `tag`, `value`, `origin`, `source`, `step`,
`reason`), and those of the audit: which `key`, which `type`, which `tags` where there are several.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from sync import plain
from sync.plain import WireError
from sync.remote import signed
from sync.remote.judge import Verdict

VERSION: Final = 1
INBOX: Final = "inbox"  # under `by` of a receipt that does not come from the field process
TAGS_SHOWN_MAX: Final = 16
TEXT_CHARS_MAX: Final = 1_000  # as on the local stream
RECEIPT_BYTES_MAX: Final = 65_536
RECEIPT_DEPTH_MAX: Final = 4


def base_of(verdict: Verdict) -> dict[str, Any]:
    """What the receipts of a message have in common: who, which key, what.

    The id of a message that nobody has proven stands under ``claimed``: whoever waits for receipts
    of his command must not take it for one.
    """
    envelope = verdict.envelope
    base: dict[str, Any] = {"key": verdict.key}
    if envelope is None:
        return {**base, "source": ""}
    base["command" if verdict.proven is not None else "claimed"] = envelope.id
    base |= {"source": envelope.source, "type": envelope.type}
    if verdict.proven is None:
        return base
    with contextlib.suppress(WireError):
        if envelope.type == signed.COMMAND:
            writes = signed.writes_of(envelope)
            if len(writes) == 1:
                return base | {"tag": writes[0].tag, "value": writes[0].value}
        base["tags"] = list(signed.tags_of(envelope)[:TAGS_SHOWN_MAX])
    return base


def body_of(base: Mapping[str, Any], step: str, reason: str, **more: Any) -> dict[str, Any]:
    """A receipt's body."""
    fixed = {"command": "", "tag": "", "value": 0.0, "origin": "remote"}
    return {**fixed, **base, **more, "step": step, "reason": reason, "by": INBOX}


def plain_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body that the field process takes: it may quote what strangers have sent.

    Texts are cut off, and what is no Unicode in them is replaced.
    """
    return {name: _plain(value) for name, value in body.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
    return value


def encode(body: Mapping[str, Any], utc_ns: int) -> bytes:
    """A receipt as the payload of one message. Raises WireError."""
    return plain.pack({"v": VERSION, "utc_ns": utc_ns, "receipt": dict(body)})


def decode(data: bytes) -> tuple[dict[str, Any], int]:
    """A receipt's body, and when it was. Raises WireError and nothing else."""
    if len(data) > RECEIPT_BYTES_MAX:
        raise WireError(f"receipt of {len(data)} bytes, {RECEIPT_BYTES_MAX} are allowed")
    outer = plain.unpack_map(data, "receipt")
    if outer.get("v") != VERSION:
        raise WireError(f"format version {outer.get('v')!r}; this side speaks {VERSION}")
    body = outer.get("receipt")
    if not isinstance(body, dict):
        raise WireError("receipt: its body is no map")
    plain.check_plain(body, RECEIPT_DEPTH_MAX)
    for name in ("command", "step", "reason"):
        plain.text({name: "", **body}, name, RECEIPT_BYTES_MAX)
    return body, plain.integer(outer, "utc_ns", -(2**63), 2**63 - 1)
