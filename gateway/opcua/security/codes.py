"""Status codes of certificates, tokens and users (OPC 10000-4, 7.39; numbers of StatusCode.csv).

They stand here because the command line judges certificates too, and does not load the library.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """What a certificate or a token is refused with; GOOD where it is not."""

    GOOD = 0
    TOO_MANY_OPERATIONS = 0x80100000
    CERTIFICATE_INVALID = 0x80120000
    SECURITY_CHECKS_FAILED = 0x80130000
    CERTIFICATE_TIME_INVALID = 0x80140000
    CERTIFICATE_ISSUER_TIME_INVALID = 0x80150000
    CERTIFICATE_URI_INVALID = 0x80170000
    CERTIFICATE_USE_NOT_ALLOWED = 0x80180000
    CERTIFICATE_ISSUER_USE_NOT_ALLOWED = 0x80190000
    CERTIFICATE_UNTRUSTED = 0x801A0000
    CERTIFICATE_REVOCATION_UNKNOWN = 0x801B0000
    CERTIFICATE_ISSUER_REVOCATION_UNKNOWN = 0x801C0000
    CERTIFICATE_REVOKED = 0x801D0000
    CERTIFICATE_ISSUER_REVOKED = 0x801E0000
    USER_ACCESS_DENIED = 0x801F0000
    IDENTITY_TOKEN_INVALID = 0x80200000
    IDENTITY_TOKEN_REJECTED = 0x80210000
    NONCE_INVALID = 0x80240000
    SECURITY_POLICY_REJECTED = 0x80550000
    USER_SIGNATURE_INVALID = 0x80570000
    CERTIFICATE_CHAIN_INCOMPLETE = 0x810D0000
    CERTIFICATE_POLICY_CHECK_FAILED = 0x81140000

    @property
    def text(self) -> str:
        """Its name as OPC UA writes it, e.g. BadCertificateUntrusted."""
        if self is Code.GOOD:
            return "Good"
        return "Bad" + self.name.title().replace("_", "")
