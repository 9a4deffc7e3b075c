"""A trust list as a file: UA binary TrustListDataType (OPC 10000-12, 7.8.2.8), checked and planned.

Everything here reads the disk and computes: for a thread.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from asyncua import ua
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.opcua.methods import MethodFault
from gateway.opcua.security.certificates import (
    CERTIFICATE_BYTES_MAX,
    CertificateError,
    common_name,
    der_of,
    read_chain,
    thumbprint,
)
from gateway.opcua.security.codes import Code
from gateway.opcua.security.trust import (
    FILES_MAX,
    ISSUERS,
    TRUSTED,
    TrustFolder,
    TrustList,
    crl_name,
    file_name,
    read_crl,
)
from gateway.opcua.security.validation import is_list_of, is_sound, is_strong, may_issue

LIST_BYTES_MAX: Final = 1_048_576  # MaxTrustListSize
# Bits of TrustListMasks, in the order of the structure's fields.
TRUSTED_CERTIFICATES: Final = 1
TRUSTED_CRLS: Final = 2
ISSUER_CERTIFICATES: Final = 4
ISSUER_CRLS: Final = 8
ALL: Final = 15
_FIELDS: Final = (TRUSTED_CERTIFICATES, TRUSTED_CRLS, ISSUER_CERTIFICATES, ISSUER_CRLS)
_KINDS: Final = {
    TRUSTED_CERTIFICATES: TRUSTED,
    TRUSTED_CRLS: TRUSTED,
    ISSUER_CERTIFICATES: ISSUERS,
    ISSUER_CRLS: ISSUERS,
}
_CERTIFICATES: Final = (TRUSTED_CERTIFICATES, ISSUER_CERTIFICATES)
_CODES: Final = ua.StatusCodes
_I32: Final = struct.Struct("<i")
# What OPC 10000-12, 7.8.2.6 lets pass: it may be in the list, and is looked at when it is used.
_SUPPRESSIBLE: Final = frozenset(
    (
        *(Code.CERTIFICATE_TIME_INVALID, Code.CERTIFICATE_ISSUER_TIME_INVALID),
        *(Code.CERTIFICATE_POLICY_CHECK_FAILED,),
    )
)

# Certificates and lists of revoked ones, by the bit of their field; a field may be missing.
Lists = dict[int, list[Any]]


def read(folder: TrustFolder) -> Lists:
    """What the folder holds now; files that can't be used are left out."""
    return {
        bit: [kept.certificate for kept in folder.kept(kind)]
        if bit in _CERTIFICATES
        else folder.crls_of(kind)
        for bit, kind in _KINDS.items()
    }


def encoded(lists: Lists, masks: int = ALL) -> bytes:
    """The file that a client reads. Raises MethodFault where it is larger than a list may be."""
    parts = [_I32.pack(masks & ALL)]
    for bit in _FIELDS:
        held = lists.get(bit, []) if masks & bit else []
        parts.append(_I32.pack(len(held)))
        for one in held:
            der = one.public_bytes(Encoding.DER)
            parts += (_I32.pack(len(der)), der)
    data = b"".join(parts)
    if len(data) > LIST_BYTES_MAX:
        raise _too_large()
    return data


def decoded(data: bytes) -> Lists:
    """The file that a client wrote; only the fields that its mask names. Raises MethodFault."""
    try:
        masks, at = _I32.unpack_from(data)[0], 4
        found: Lists = {}
        for bit in _FIELDS:
            count, at = _I32.unpack_from(data, at)[0], at + 4
            held = []
            for _ in range(count):
                size, at = _I32.unpack_from(data, at)[0], at + 4
                if not 0 < size <= len(data) - at:
                    raise _invalid("a certificate is empty or cut off")
                held.append(data[at : at + size])
                at += size
            if masks & bit:
                read_one = certificate_of if bit in _CERTIFICATES else _crl_of
                found[bit] = [read_one(der) for der in dict.fromkeys(held)]
    except struct.error:
        raise _invalid("no TrustListDataType: it is cut off") from None
    if at != len(data) or masks & ~ALL:
        raise _invalid("no TrustListDataType")
    if any(len(held) > FILES_MAX for held in found.values()):
        raise _too_large()
    return found


def certificate_of(data: bytes) -> x509.Certificate:
    """One certificate of DER; what stands behind it is not used. Raises MethodFault."""
    try:
        found = read_chain(data)[0]
    except CertificateError as error:
        raise _invalid(str(error)) from None
    if len(der_of(found)) > CERTIFICATE_BYTES_MAX:
        raise _invalid(f"a certificate of more than {CERTIFICATE_BYTES_MAX} bytes")
    return found


def _crl_of(data: bytes) -> x509.CertificateRevocationList:
    try:
        return read_crl(data)
    except CertificateError as error:
        raise _invalid(str(error)) from None


def check(lists: Lists, fresh: Lists, now_ns: int) -> None:
    """Refuse what can't be right in a list. Raises MethodFault, which names the certificate.

    lists  as the list would be
    fresh  what of it is new
    """
    encoded(lists)
    held = [one for bit in _CERTIFICATES for one in lists.get(bit, [])]
    # Those alone that can issue: a list of a thousand clients is checked within the second.
    authorities = [one for one in held if may_issue(one) and is_strong(one)]
    known = TrustList({thumbprint(der_of(one)): one for one in authorities})
    for one in (one for bit in _CERTIFICATES for one in fresh.get(bit, [])):
        code = is_sound([one], known, now_ns)
        if code and code not in _SUPPRESSIBLE:
            raise MethodFault(int(code), f"{name_of(one)}: {code.text}")
    for crl in (one for bit in (TRUSTED_CRLS, ISSUER_CRLS) for one in fresh.get(bit, [])):
        if not any(is_list_of(crl, one) for one in authorities):
            raise _invalid(f"{crl_name(crl)}: nobody in the list issued it")


def plan(folder: TrustFolder, lists: Lists) -> tuple[dict[Path, bytes], list[Path]]:
    """The files to write, and those to remove, so that the folder holds `lists`.

    Fields that are missing stay as they are.
    """
    puts: dict[Path, bytes] = {}
    removes: list[Path] = []
    for bit, held in lists.items():
        if bit in _CERTIFICATES:
            place = folder.certificates(_KINDS[bit])
            wanted = {place / file_name(one): der_of(one) for one in held}
        else:
            place = folder.crls[_KINDS[bit] == ISSUERS]
            wanted = _crl_files(place, held)
        puts.update((path, data) for path, data in wanted.items() if _content(path) != data)
        removes += [path for path in place.iterdir() if path not in wanted and path.is_file()]
    return puts, removes


def _crl_files(place: Path, held: Sequence[x509.CertificateRevocationList]) -> dict[Path, bytes]:
    """An authority with two keys has two lists under one name."""
    wanted: dict[Path, bytes] = {}
    for crl in held:
        data = crl.public_bytes(Encoding.DER)
        path = place / crl_name(crl)
        if path in wanted:
            path = path.with_name(f"{hashlib.sha256(data).hexdigest()[:16]} {path.name}")
        wanted[path] = data
    return wanted


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def without(lists: Lists, digits: str, bit: int) -> Lists:
    """The fields that change when a certificate is taken out. Raises MethodFault.

    digits  its thumbprint
    bit     the list that it is in
    """
    gone = [one for one in lists[bit] if thumbprint(der_of(one)) == digits.upper()]
    if not gone:
        raise MethodFault(_CODES.BadInvalidArgument, f"no certificate {digits[:64]} is there")
    rest: Lists = {bit: [one for one in lists[bit] if one not in gone]}
    others = [*rest[bit], *(one for other in _CERTIFICATES if other != bit for one in lists[other])]
    if gone[0] in others:
        return rest  # it is in the other list, too
    orphans = [one for one in others if one.issuer == gone[0].subject and one.issuer != one.subject]
    if orphans and not any(one.subject == gone[0].subject for one in others):
        reason = f"{name_of(orphans[0])} was issued by it; take that one out first"
        raise MethodFault(_CODES.BadCertificateChainIncomplete, reason)
    if not any(one.subject == gone[0].subject for one in others):
        for field in (TRUSTED_CRLS, ISSUER_CRLS):
            left = [crl for crl in lists[field] if crl.issuer != gone[0].subject]
            if len(left) < len(lists[field]):
                rest[field] = left
    return rest


def merged(*given: Mapping[int, Iterable[Any]]) -> Lists:
    """Several updates of a list, the last one's fields count."""
    return {bit: list(held) for lists in given for bit, held in lists.items()}


def name_of(certificate: x509.Certificate) -> str:
    """A certificate for people."""
    return f"{common_name(certificate)[:64]} {thumbprint(der_of(certificate))}".strip()


def _invalid(reason: str) -> MethodFault:
    return MethodFault(_CODES.BadCertificateInvalid, reason)


def _too_large() -> MethodFault:
    reason = f"a trust list has {LIST_BYTES_MAX} bytes and {FILES_MAX} certificates at most"
    return MethodFault(_CODES.BadRequestTooLarge, reason)
