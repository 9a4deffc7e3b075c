"""What stands in the tokens of users: encrypted passwords, and signatures of certificates."""

from __future__ import annotations

import hmac
import struct
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.opcua.security.passwords import PASSWORD_BYTES_MAX
from gateway.opcua.security.policies import NONCE_BYTES, Policy

_LENGTH: Final = struct.Struct("<I")
SECRET_BYTES_MAX: Final = _LENGTH.size + PASSWORD_BYTES_MAX + NONCE_BYTES
CIPHER_BYTES_MAX: Final = 4_096


def password_of(secret: bytes, nonce: bytes, key: rsa.RSAPrivateKey, policy: Policy) -> str | None:
    """The password in an encrypted token; None where it is none.

    It is encrypted together with the session's last nonce (OPC 10000-4, 7.40.2.2), which must be
    `nonce`: so a token that was overheard is worth nothing in another session. What is wrong is not
    told, lest the answer help to decrypt.
    """
    block = key.key_size // 8
    if not secret or len(secret) % block or len(secret) > CIPHER_BYTES_MAX or not nonce:
        return None
    try:
        parts = [
            policy.decrypt(key, secret[at : at + block]) for at in range(0, len(secret), block)
        ]
    except ValueError:
        return None
    plain = b"".join(parts)
    if not _LENGTH.size + len(nonce) <= len(plain) <= SECRET_BYTES_MAX:
        return None
    (length,) = _LENGTH.unpack_from(plain)
    content = plain[_LENGTH.size :]
    if length != len(content) or not hmac.compare_digest(content[-len(nonce) :], nonce):
        return None
    try:
        return content[: -len(nonce)].decode("utf-8")
    except UnicodeDecodeError:
        return None


def is_signed(
    certificate: x509.Certificate,
    algorithm: str | None,
    signature: bytes | None,
    data: bytes,
    policy: Policy,
) -> bool:
    """True where the holder signed `data`: the server's certificate and the last nonce."""
    if algorithm != policy.signature_uri or not signature:
        return False
    try:
        policy.verify(certificate, data, signature)
    except (InvalidSignature, ValueError):
        return False
    return True
