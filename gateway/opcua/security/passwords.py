"""Hashes of passwords: scrypt (RFC 7914) with a salt of each user's own. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final

from gateway.core.clock import secret

# 16 MiB and a fifth of a second of a small machine's core: OWASP's choice for so much memory.
COST: Final = 2**14
BLOCK: Final = 8
PARALLEL: Final = 5
COST_MAX: Final = 2**17
MEMORY_MAX: Final = 192 * 1024 * 1024
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32
PASSWORD_CHARS_MIN: Final = 8
PASSWORD_BYTES_MAX: Final = 512

_FORM: Final = re.compile(
    r"scrypt\$(\d{1,6})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/]{22}==)\$([A-Za-z0-9+/]{43}=)"
)


def hashed(password: str, cost: int = COST, parallel: int = PARALLEL) -> str:
    """``scrypt$N$r$p$salt$hash``, salt and hash in base64. Takes a fifth of a second."""
    salt = secret(SALT_BYTES)
    digest = _scrypt(password, salt, cost, BLOCK, parallel)
    texts = (base64.b64encode(part).decode() for part in (salt, digest))
    return "$".join(("scrypt", f"{cost}", f"{BLOCK}", f"{parallel}", *texts))


def is_hash(text: str) -> bool:
    """True where `text` is what `hashed` gives."""
    match = _FORM.fullmatch(text)
    if match is None:
        return False
    cost, block, parallel = (int(part) for part in match.groups()[:3])
    return 2 <= cost <= COST_MAX and cost & (cost - 1) == 0 and block == BLOCK and 0 < parallel < 17


def matches(password: str, text: str) -> bool:
    """True where `text` is the hash of `password`; takes the same time where it is not."""
    match = _FORM.fullmatch(text)
    assert match is not None, "hashes are checked when the file of users is read"
    cost, block, parallel = (int(part) for part in match.groups()[:3])
    salt, expected = (base64.b64decode(part) for part in match.groups()[3:])
    return hmac.compare_digest(_scrypt(password, salt, cost, block, parallel), expected)


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=cost,
        r=block,
        p=parallel,
        maxmem=MEMORY_MAX,
        dklen=HASH_BYTES,
    )


def fault_of(password: str) -> str:
    """Why a new password is refused; "" where it is not."""
    if len(password) < PASSWORD_CHARS_MIN:
        return f"a password has {PASSWORD_CHARS_MIN} characters at least"
    if len(password.encode("utf-8", "surrogatepass")) > PASSWORD_BYTES_MAX:
        return f"a password has {PASSWORD_BYTES_MAX} bytes at most"
    if any(ord(sign) < 32 for sign in password):
        return "a password has no control characters"
    return ""
