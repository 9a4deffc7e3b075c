"""The server's own key and certificate: ``own/server.pem`` of the state folder (0600).

Key and certificate stand in one file, so that no power cut leaves one without the other.
``own/server.der`` is the certificate alone, for people to carry to clients.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.core.files import replace_file
from gateway.opcua.security import certificates
from gateway.opcua.security.certificates import CertificateError, Subject

FILE_BYTES_MAX: Final = 200_000


class OwnError(Exception):
    """Our own key or certificate can't be used; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Own:
    """Our key and certificate; `der` is the certificate as clients get it."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate
    der: bytes

    @property
    def uri(self) -> str:
        """The application's URI in the certificate; what clients know the server by."""
        found = certificates.uris_of(self.certificate)
        return found[0] if found else ""

    @property
    def self_signed(self) -> bool:
        """True where no authority issued it, so that we may renew it ourselves."""
        return certificates.is_self_signed(self.certificate)


class OwnFiles:
    """The folder ``own``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "server.pem"
        self.public_file = folder / "server.der"
        self.next_key_file = folder / "next-key.pem"

    def load(self) -> Own | None:
        """Key and certificate; None where there are none yet. Raises OwnError."""
        try:
            data = _private_bytes(self.file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OwnError(f"{self.file}: {error.strerror}") from None
        try:
            key = certificates.read_key(data)
            certificate = certificates.read_chain(data)[0]
        except CertificateError as error:
            raise OwnError(
                f"{self.file}: {error}. Remove the file, and `gatepost certs renew` makes another"
            ) from None
        if not certificates.fits_key(certificate, key):
            raise OwnError(
                f"{self.file}: key and certificate don't belong together. Remove the file, and "
                "`gatepost certs renew` makes another"
            )
        return Own(key, certificate, certificates.der_of(certificate))

    def renew(self, subject: Subject, now_ns: int, *, new_key: bool = False) -> Own:
        """A certificate that we sign ourselves, of the same key or of a new one; the first too.

        Raises OwnError.
        """
        old = None if new_key else self.load()
        if old is None:
            key = certificates.new_key()
            return self._keep(key, certificates.self_signed(key, subject, now_ns))
        # It begins where the old one did: if our clock runs years ahead, it counts all the same.
        begins_ns = certificates.begins_ns(old.certificate)
        made = certificates.self_signed(old.key, subject, now_ns, begins_ns)
        return self._keep(old.key, made)

    def request(
        self, subject: Subject, *, new_key: bool = False, name: x509.Name | None = None
    ) -> bytes:
        """A certificate request in PEM; a new key waits beside until `install`. Raises OwnError."""
        own = None if new_key else self.load()
        if own is not None:
            return certificates.request(own.key, subject, name)
        key = certificates.new_key()
        self._write(self.next_key_file, certificates.key_pem(key), 0o600)
        return certificates.request(key, subject, name)

    def install(self, data: bytes, uri: str, now_ns: int) -> Own:
        """Take a certificate that an authority issued for our request. Raises OwnError.

        data  DER or PEM, ours first
        uri   what it must be made out to
        """
        try:
            certificate = certificates.read_chain(data)[0]
        except CertificateError as error:
            raise OwnError(str(error)) from None
        key = self.key_of(certificate)
        if uri not in certificates.uris_of(certificate):
            found = ", ".join(certificates.uris_of(certificate)) or "none"
            raise OwnError(
                f"it is made out to the application URI {found}; clients would refuse it. Let the "
                f"authority keep the request's subjectAltName, with {uri}"
            )
        begins, ends = certificates.begins_ns(certificate), certificates.ends_ns(certificate)
        if not begins <= now_ns < ends:
            raise OwnError("it does not count now; look at its times and at this machine's clock")
        return self._keep(key, certificate)

    def key_of(self, certificate: x509.Certificate) -> rsa.RSAPrivateKey:
        """Our key that a certificate is of: the present one, or the next. Raises OwnError."""
        own = self.load()
        keys = [own.key] if own is not None else []
        try:
            keys.append(certificates.read_key(_private_bytes(self.next_key_file)))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OwnError(f"{self.next_key_file}: {error.strerror}") from None
        except CertificateError as error:
            raise OwnError(f"{self.next_key_file}: {error}") from None
        for key in keys:
            if certificates.fits_key(certificate, key):
                return key
        raise OwnError("it is of another key than ours; begin with `gatepost certs request`")

    def _keep(self, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> Own:
        contents = self.contents(key, certificate)
        self._write(self.file, contents[self.file], 0o600)
        self._write(self.public_file, contents[self.public_file], 0o644)
        self.next_key_file.unlink(missing_ok=True)
        return Own(key, certificate, certificates.der_of(certificate))

    def contents(self, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> dict[Path, bytes]:
        """The files of a key and its certificate."""
        pem = certificates.key_pem(key) + certificate.public_bytes(Encoding.PEM)
        return {self.file: pem, self.public_file: certificates.der_of(certificate)}

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, data, mode)
        except OSError as error:
            raise OwnError(f"{path}: {error.strerror}") from None


def _private_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise OwnError(f"{path}: others may read this key; run chmod 600 on it")
        return file.read(FILE_BYTES_MAX)
