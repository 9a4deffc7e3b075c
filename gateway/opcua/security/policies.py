"""The security policies: asyncua's cryptography, mended where it is weak.

* A client's nonce has the length that the policy asks for (OPC 10000-4, 5.5.2), or there is no key.
* Signatures of messages are compared in constant time.
* A signature that is not right is one kind of error, whoever made it.
* A padding longer than its message is refused; it is looked at behind the signature only.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asyncua import ua
from asyncua.crypto import security_policies as library
from asyncua.crypto import uacrypto
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from config.opcua import OpcUaEntry
from gateway.opcua.security.certificates import CertificateError, read_chain
from gateway.opcua.security.codes import Code
from gateway.opcua.security.own import Own
from gateway.opcua.service import Fault

NONE_URI: Final = library.SecurityPolicyNone.URI
TRANSPORT_URI: Final = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary"
NONCE_BYTES: Final = 32  # of all three policies, and of sessions

Mode = ua.MessageSecurityMode


class _Verifier(library.VerifierHMac256):
    def verify(self, data: bytes, signature: bytes) -> None:
        if not hmac.compare_digest(hmac.digest(self.key, data, "sha256"), signature):
            raise uacrypto.InvalidSignature


class _Signer(library.SignerHMac256):
    def signature(self, data: bytes) -> bytes:
        return hmac.digest(self.key, data, "sha256")


class _Symmetric(library.Cryptography):
    def remove_padding(self, data: bytes) -> bytes:
        if not self.is_encrypted:
            return data
        size = data[-1] + 1 if data else 1
        if size > len(data):
            raise Fault(Code.SECURITY_CHECKS_FAILED)
        return data[:-size]


class _Certain(library.Verifier):
    """A verifier of long-lived keys that says in the library's own words what is wrong."""

    def __init__(self, verifier: Any) -> None:
        self._verifier = verifier

    def signature_size(self) -> int:
        return int(self._verifier.signature_size())

    def verify(self, data: bytes, signature: bytes) -> None:
        try:
            self._verifier.verify(data, signature)
        except InvalidSignature as error:
            raise uacrypto.InvalidSignature from error


class _Mended:
    """Comes before a policy of the library."""

    asymmetric_cryptography: Any
    symmetric_cryptography: Any
    Mode: Any

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.symmetric_cryptography = _Symmetric(self.Mode)
        long_lived = self.asymmetric_cryptography
        long_lived.Verifier = _Certain(long_lived.Verifier)

    def make_local_symmetric_key(self, secret: bytes | None, seed: bytes) -> None:
        if secret is None or len(secret) != NONCE_BYTES:
            raise Fault(Code.NONCE_INVALID)
        super().make_local_symmetric_key(secret, seed)  # type: ignore[misc]
        crypto = self.symmetric_cryptography
        crypto.Signer = _Signer(crypto.Signer.key)

    def make_remote_symmetric_key(self, secret: bytes, seed: bytes, lifetime: int) -> None:
        super().make_remote_symmetric_key(secret, seed, lifetime)  # type: ignore[misc]
        crypto = self.symmetric_cryptography
        crypto.Verifier = _Verifier(crypto.Verifier.key)


class Basic256Sha256(_Mended, library.SecurityPolicyBasic256Sha256):
    """OPC 10000-7, SecurityPolicy Basic256Sha256."""


class Aes128Sha256RsaOaep(_Mended, library.SecurityPolicyAes128Sha256RsaOaep):
    """OPC 10000-7, SecurityPolicy Aes128-Sha256-RsaOaep."""


class Aes256Sha256RsaPss(_Mended, library.SecurityPolicyAes256Sha256RsaPss):
    """OPC 10000-7, SecurityPolicy Aes256-Sha256-RsaPss."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as the site file names it.

    level     of its endpoints: the higher, the better (OPC 10000-4, 7.14)
    decrypt   one block of RSA, as the policy pads it
    verify    raises InvalidSignature
    """

    name: str
    made: Any
    level: int
    decrypt: Callable[[rsa.RSAPrivateKey, bytes], bytes]
    verify: Callable[[x509.Certificate, bytes, bytes], None]

    @property
    def uri(self) -> str:
        """What names it on the wire."""
        return str(self.made.URI)

    @property
    def encryption_uri(self) -> str:
        """How passwords are encrypted."""
        return str(self.made.AsymmetricEncryptionURI)

    @property
    def signature_uri(self) -> str:
        """How sessions and tokens are signed."""
        return str(self.made.AsymmetricSignatureURI)


POLICIES: Final[tuple[Policy, ...]] = (
    Policy(
        "Aes256_Sha256_RsaPss",
        Aes256Sha256RsaPss,
        130,
        uacrypto.decrypt_rsa_oaep_sha256,
        uacrypto.verify_pss_sha256,
    ),
    Policy(
        "Basic256Sha256",
        Basic256Sha256,
        120,
        uacrypto.decrypt_rsa_oaep,
        uacrypto.verify_sha256,
    ),
    Policy(
        "Aes128_Sha256_RsaOaep",
        Aes128Sha256RsaOaep,
        110,
        uacrypto.decrypt_rsa_oaep,
        uacrypto.verify_sha256,
    ),
)


def chosen(settings: OpcUaEntry) -> list[Policy]:
    """The policies of a site, the best first."""
    return [policy for policy in POLICIES if policy.name in settings.Policies]


def modes(settings: OpcUaEntry) -> list[Any]:
    """The modes that each policy is offered with, the best first."""
    return [Mode.SignAndEncrypt, Mode.Sign] if settings.SignOnly else [Mode.SignAndEncrypt]


class Factory:
    """Makes the policy of one channel; what asyncua's SecureConnection chooses from."""

    def __init__(self, policy: Policy, mode: Any, own: Own) -> None:
        self.URI = policy.uri
        self.Mode = mode
        self._policy = policy
        self._own = own

    def matches(self, uri: str, mode: Any = None) -> bool:
        """True where a client asks for this one."""
        return uri == self.URI and mode in (None, self.Mode)

    def create(self, peer: bytes | None) -> Any:
        """The policy of a channel to the holder of `peer`, who was judged before. Raises Fault.

        peer  DER, perhaps with the certificates of issuers behind it
        """
        try:
            certificate = read_chain(peer or b"")[0]
            if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
                raise Fault(Code.CERTIFICATE_POLICY_CHECK_FAILED)
        except (CertificateError, ValueError, UnsupportedAlgorithm) as error:
            raise Fault(Code.CERTIFICATE_INVALID) from error
        return self._policy.made(certificate, self._own.certificate, self._own.key, self.Mode)


class NoneFactory:
    """The policy None: for discovery, and for sessions where the site allows them."""

    URI = NONE_URI
    Mode = Mode.None_

    def matches(self, uri: str, mode: Any = None) -> bool:
        """True where a client asks for this one."""
        return uri == self.URI and mode in (None, self.Mode)

    def create(self, peer: bytes | None) -> Any:
        """The policy of a channel; a certificate that comes along says nothing."""
        return library.SecurityPolicyNone()


def token_policies(policy: Policy | None, *, anonymous: bool) -> Sequence[Any]:
    """How users may log on at an endpoint; `policy` None is that without security."""
    kinds: list[tuple[str, Any, str | None]] = []
    if anonymous or policy is None:
        kinds.append(("anonymous", ua.UserTokenType.Anonymous, None))
    if policy is not None:
        kinds.append((f"username-{policy.name}", ua.UserTokenType.UserName, policy.uri))
        kinds.append((f"certificate-{policy.name}", ua.UserTokenType.Certificate, policy.uri))
    made = []
    for name, kind, uri in kinds:
        token = ua.UserTokenPolicy()
        token.PolicyId, token.TokenType, token.SecurityPolicyUri = name, kind, uri
        made.append(token)
    return made
