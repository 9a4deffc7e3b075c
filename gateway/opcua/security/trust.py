"""Folders of certificates: whom the server trusts, who vouches for others, who was turned away.

``trusted/certs``, ``trusted/crl``, ``issuers/certs``, ``issuers/crl`` and ``rejected/certs``, as
OPC 10000-12 names them. Files are DER or PEM; their names are for people.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from gateway.core.files import replace_file, sync_folder
from gateway.opcua.security.certificates import (
    CERTIFICATE_BYTES_MAX,
    CertificateError,
    common_name,
    der_of,
    read_chain,
    thumbprint,
)

FILES_MAX: Final = 1_000  # of one folder; more are not looked at
CRL_BYTES_MAX: Final = 4_000_000
REJECTED_MAX: Final = 50  # the oldest go
SETTLE_NS: Final = 2_000_000_000  # a folder's time may stand still for so long while it changes

_UNSAFE: Final = re.compile(r"[^\w .,@+-]+")

TRUSTED: Final = "trusted"
ISSUERS: Final = "issuers"
REJECTED: Final = "rejected"
KINDS: Final = (TRUSTED, ISSUERS, REJECTED)


@dataclass(frozen=True, slots=True)
class TrustList:
    """What the folders hold at one time.

    trusted  by thumbprint: applications, and authorities all of whose certificates are trusted
    issuers  authorities that complete chains; no trust comes from them
    faults   files that could not be used, and why
    """

    trusted: Mapping[str, x509.Certificate] = field(default_factory=dict)
    issuers: Mapping[str, x509.Certificate] = field(default_factory=dict)
    revoked: Sequence[x509.CertificateRevocationList] = ()
    faults: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A certificate in one of the folders."""

    kind: str
    path: Path
    certificate: x509.Certificate
    thumbprint: str


class TrustFolder:
    """The folders of one purpose: applications, or users."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parsed: dict[Path, tuple[tuple[int, int], list[x509.Certificate]]] = {}
        self.crls = (folder / TRUSTED / "crl", folder / ISSUERS / "crl")

    def certificates(self, kind: str) -> Path:
        """The folder of a kind of certificates, e.g. TRUSTED."""
        return self.folder / kind / "certs"

    def make(self) -> None:
        """Create the folders; nobody else may read them. Raises OSError."""
        for folder in (*(self.certificates(kind) for kind in KINDS), *self.crls):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def stamp(self) -> tuple[int, ...]:
        """Changes when a file is put in, replaced by renaming, or taken out.

        A list of revoked certificates may be written over: scripts fetch each new one so.
        """
        watched = (self.certificates(TRUSTED), self.certificates(ISSUERS), *self.crls)
        lists = (max(map(modified_ns, _files(folder)), default=0) for folder in self.crls)
        return (*(modified_ns(folder) for folder in watched), *lists)

    def load(self) -> TrustList:
        """What counts now; files that can't be used are told and left out."""
        faults: list[str] = []
        trusted, issuers = (
            {kept.thumbprint: kept.certificate for kept in self._kept(kind, faults)}
            for kind in (TRUSTED, ISSUERS)
        )
        revoked = [crl for folder in self.crls for crl in _crls(folder, faults)]
        return TrustList(trusted, issuers, tuple(revoked), tuple(faults))

    def kept(self, kind: str) -> list[Kept]:
        """The certificates of a folder, by the names of their files."""
        return list(self._kept(kind, []))

    def crls_of(self, kind: str) -> list[x509.CertificateRevocationList]:
        """The lists of revoked certificates of a kind, TRUSTED or ISSUERS."""
        return list(_crls(self.crls[kind == ISSUERS], []))

    def _kept(self, kind: str, faults: list[str]) -> Iterator[Kept]:
        for path in _files(self.certificates(kind)):
            try:
                for certificate in self._certificates(path):
                    yield Kept(kind, path, certificate, thumbprint(der_of(certificate)))
            except (OSError, CertificateError) as error:
                faults.append(f"{path}: {error}")

    def _certificates(self, path: Path) -> list[x509.Certificate]:
        """Those of a file, parsed anew only where it changed. Raises OSError, CertificateError."""
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size)
        known = self._parsed.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        chain = read_chain(_read(path, CERTIFICATE_BYTES_MAX))
        if len(self._parsed) >= 3 * FILES_MAX:
            self._parsed.clear()
        self._parsed[path] = (stamp, chain)
        return chain

    def put(self, kind: str, certificate: x509.Certificate) -> Path:
        """Keep a certificate in a folder, durably. Raises OSError."""
        folder = self.certificates(kind)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / file_name(certificate)
        replace_file(path, der_of(certificate), 0o600)
        return path

    def take_out(self, kind: str, digits: str) -> bool:
        """Remove a certificate by its thumbprint; False where the folder has none. Raises OSError.

        A file with several certificates is written anew without it.
        """
        found = [kept for kept in self.kept(kind) if kept.thumbprint == digits]
        for kept in found:
            rest = [der_of(one) for one in read_chain(kept.path.read_bytes())]
            rest = [der for der in rest if thumbprint(der) != digits]
            if rest:
                replace_file(kept.path, b"".join(rest), 0o600)
            else:
                kept.path.unlink(missing_ok=True)
        if found:
            sync_folder(self.certificates(kind))
        return bool(found)

    def reject(self, certificate: x509.Certificate) -> None:
        """Remember who was turned away, so that an administrator can trust him; the newest count.

        Not synced: what a power cut takes comes again with the next try.
        """
        folder = self.certificates(REJECTED)
        path = folder / file_name(certificate)
        with contextlib.suppress(OSError):
            if path.exists():
                os.utime(path)
                return
            path.write_bytes(der_of(certificate))
            every = sorted(folder.iterdir(), key=modified_ns)
            for old in every[: max(0, len(every) - REJECTED_MAX)]:
                old.unlink(missing_ok=True)


def file_name(certificate: x509.Certificate) -> str:
    """``Name [thumbprint].der``; whatever the holder calls himself, it names a file here."""
    name = _UNSAFE.sub("_", common_name(certificate))[:60].strip(" .") or "certificate"
    return f"{name} [{thumbprint(der_of(certificate))}].der"


def crl_name(crl: x509.CertificateRevocationList) -> str:
    """The file of an authority's list; a newer one of the same authority takes its place."""
    names = crl.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = _UNSAFE.sub("_", str(names[0].value) if names else "")[:60].strip(" .") or "list"
    digits = hashlib.sha1(crl.issuer.public_bytes(), usedforsecurity=False).hexdigest().upper()
    return f"{name} [{digits}].crl"


def modified_ns(path: Path) -> int:
    """When a file or folder was changed, UTC in ns; 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _files(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
    return [path for path in found[:FILES_MAX] if path.suffix != ".new"]


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise CertificateError(f"larger than {most} bytes")
    return data


def read_crl(data: bytes) -> x509.CertificateRevocationList:
    """A list of revoked certificates from DER or PEM. Raises CertificateError."""
    pem = data.lstrip().startswith(b"-----")
    load = x509.load_pem_x509_crl if pem else x509.load_der_x509_crl
    try:
        crl = load(data)
        _ = crl.issuer, crl.next_update_utc, crl.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CertificateError(f"no list of revoked certificates: {error}") from None
    return crl


def _crls(folder: Path, faults: list[str]) -> Iterator[x509.CertificateRevocationList]:
    for path in _files(folder):
        try:
            yield read_crl(_read(path, CRL_BYTES_MAX))
        except (OSError, CertificateError) as error:
            faults.append(f"{path}: {error}")
