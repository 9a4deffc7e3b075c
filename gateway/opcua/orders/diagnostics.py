"""The reason of each result in words, for clients that ask for it (OPC 10000-4, 7.12 and 7.32)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import Primitives

# Bits of ReturnDiagnostics for the results of a request (OPC 10000-4, 7.32).
SYMBOL: Final = 0x20
TEXT: Final = 0x40
MORE: Final = 0x80
_WANTED: Final = SYMBOL | TEXT | MORE
REASON_CHARS_MAX: Final = 1_000
BYTES_SHOWN_MAX: Final = 64  # an EventId has 16; more may be a certificate or a private key
_PLAIN: Final = frozenset(
    kind for kind in ua.VariantType if 1 <= kind.value <= 21 and kind.name != "XmlElement"
)
_STANDARD: Final = "http://opcfoundation.org/UA/"


class Words:
    """Collects the string table of one response. `mask` is ReturnDiagnostics of the request."""

    def __init__(self, mask: int) -> None:
        self._mask = mask
        self._strings: dict[str, int] = {}

    @property
    def table(self) -> list[str]:
        """For the response's header."""
        return list(self._strings)

    def of(self, results: Sequence[tuple[int, str]]) -> list[ua.DiagnosticInfo]:
        """One for each (status code, reason); none at all where nobody asked or none has one."""
        if not self._mask & _WANTED or not any(reason for _, reason in results):
            return []
        return [self._one(code, reason[:REASON_CHARS_MAX]) for code, reason in results]

    def _one(self, code: int, reason: str) -> ua.DiagnosticInfo:
        info = ua.DiagnosticInfo()
        if not reason:
            return info
        if self._mask & SYMBOL:
            info.NamespaceURI = self._index(_STANDARD)
            info.SymbolicId = self._index(ua.StatusCode(ua.UInt32(code)).name)
        if self._mask & TEXT:
            # asyncua 2.1.0 has the masks of LocalizedText (0x04) and Locale (0x08) the wrong way
            # round (OPC 10000-6, 5.2.2.12): what it calls the locale is the text to everybody else.
            info.Locale = self._index(reason)
        if self._mask & MORE:
            info.AdditionalInfo = ua.String(reason)
        return info

    def _index(self, text: str) -> ua.Int32:
        return ua.Int32(self._strings.setdefault(text, len(self._strings)))


def small(variant: ua.Variant | None) -> ua.Variant:
    """A value that an event can keep and everybody may see: one number, time or short text, or the
    name of an event; else nothing."""
    content = None if variant is None else variant.Value
    if isinstance(content, ua.LocalizedText):
        content = content.Text
    long = isinstance(content, str | bytes) and len(content) > (
        BYTES_SHOWN_MAX if isinstance(content, bytes) else REASON_CHARS_MAX
    )
    nested = isinstance(content, list | tuple | ua.Variant | ua.DataValue)
    if variant is None or long or nested:
        return ua.Variant()
    known = variant.VariantType in _PLAIN
    return variant if known else ua.Variant()


def array_length(body: Buffer) -> int:
    """The length of the array that a request begins with; 0 where it is null. Reads nothing."""
    return max(0, int(Primitives.Int32.unpack(body.copy(4))))
