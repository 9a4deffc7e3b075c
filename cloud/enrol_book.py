"""The book of an authority: tokens that were given out, certificates that were issued. SQLite.

A token is kept as a hash. It is used once, by the first key that shows it, and one transaction
both uses it and notes the certificate: of two gateways that come at the same time, or two services
on one book, one gets it. The same key may ask again and gets the same certificate, because an
answer can be lost on the way.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.core.clock import Clock
from sync.enrolment import SECRET_BYTES, key_hash, secret_hash

FILE: Final = "enrolment.sqlite"
BUSY_S: Final = 5.0
CERTIFICATES_MAX: Final = 20  # of one name and role that count; a renewal comes every few months
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS tokens (hash BLOB PRIMARY KEY, name TEXT NOT NULL,"
    " expires_ns INTEGER NOT NULL, used_by BLOB, serial TEXT) STRICT",
    "CREATE TABLE IF NOT EXISTS certificates (serial TEXT PRIMARY KEY, name TEXT NOT NULL,"
    " role TEXT NOT NULL, issued_ns INTEGER NOT NULL, ends_ns INTEGER NOT NULL,"
    " revoked_ns INTEGER NOT NULL DEFAULT 0, pem BLOB NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS certificates_of_name ON certificates (name, revoked_ns)",
)


class BookError(Exception):
    """The book can't be read or written."""


class TokenRefused(Exception):
    """A token or certificate does not count; the message is what its owner is told."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate that was issued; `revoked_ns` = 0 where it counts."""

    serial: str
    name: str
    role: str
    issued_ns: int
    ends_ns: int
    revoked_ns: int


class Entitled(NamedTuple):
    """Who has a certificate that counts; `turn` = how often the name was revoked before."""

    name: str
    role: str
    turn: int = 0


class Book:
    """One book; each call opens its file anew, so that any thread may make it."""

    def __init__(self, folder: Path) -> None:
        """Creates the file where it is missing. Raises BookError."""
        self._path = folder / FILE
        with self._write() as base:
            for statement in _SCHEMA:
                base.execute(statement)
        with contextlib.suppress(OSError):
            self._path.chmod(0o600)

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other one runs beside."""
        try:
            with contextlib.closing(
                sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            ) as base:
                base.execute("PRAGMA synchronous = FULL")
                base.execute("BEGIN IMMEDIATE")
                with base:  # commits, or takes everything back
                    yield base
        except sqlite3.Error as error:
            raise BookError(f"{self._path}: {error}") from error

    def new_secret(self, name: str, expires_ns: int, clock: Clock) -> bytes:
        """The secret of a new token for a gateway; only its hash is noted. Raises BookError.

        Two random UUIDs: 244 bits of the system's generator.
        """
        secret = bytes.fromhex(clock.new_id() + clock.new_id())
        assert len(secret) == SECRET_BYTES
        with self._write() as base:
            row = (secret_hash(secret), name, expires_ns)
            base.execute("INSERT INTO tokens (hash, name, expires_ns) VALUES (?, ?, ?)", row)
        return secret

    def redeem(
        self,
        secret: bytes,
        public: object,
        now_ns: int,
        issue: Callable[[Entitled], x509.Certificate],
        role: str,
    ) -> bytes:
        """Use a token: the certificate in PEM form that `issue` makes for its name.

        Raises TokenRefused: unknown, expired, used by another key; BookError.
        """
        asked, key = secret_hash(secret), key_hash(public)
        with self._write() as base:
            found = base.execute(
                "SELECT name, expires_ns, used_by, serial FROM tokens WHERE hash = ?", (asked,)
            ).fetchone()
            if found is None:
                raise TokenRefused("the token is unknown here")
            name, expires_ns, used_by, serial = found
            if now_ns >= expires_ns:
                raise TokenRefused("the token has expired: ask for a new one")
            if used_by is not None:
                if used_by != key:
                    raise TokenRefused("the token was used already: ask for a new one")
                return self._same(base, serial)
            certificate = issue(Entitled(name, role, _turn(base, name)))
            pem = _note(base, certificate, name, role, now_ns)
            update = "UPDATE tokens SET used_by = ?, serial = ? WHERE hash = ?"
            base.execute(update, (key, _serial(certificate), asked))
            return pem

    def _same(self, base: sqlite3.Connection, serial: str) -> bytes:
        query = "SELECT pem FROM certificates WHERE serial = ? AND revoked_ns = 0"
        row = base.execute(query, (serial,)).fetchone()
        if row is None:
            raise TokenRefused("the certificate of this token is revoked")
        return bytes(row[0])

    def renew(
        self,
        shown: x509.Certificate,
        public: object,
        now_ns: int,
        issue: Callable[[Entitled], x509.Certificate],
    ) -> bytes:
        """A new certificate for the owner of `shown`, in PEM form.

        Raises TokenRefused where that one is revoked or not of this book; BookError.
        """
        with self._write() as base:
            query = "SELECT name, role, revoked_ns FROM certificates WHERE serial = ?"
            row = base.execute(query, (_serial(shown),)).fetchone()
            if row is None or row[2]:
                raise TokenRefused("this certificate is revoked, or was not issued here")
            name, role = row[0], row[1]
            counting = "SELECT pem FROM certificates WHERE name = ? AND role = ?"
            counting += " AND revoked_ns = 0 AND ends_ns > ?"
            pems = [bytes(pem) for (pem,) in base.execute(counting, (name, role, now_ns))]
            for pem in pems:  # an answer may have been lost on the way
                if key_hash(x509.load_pem_x509_certificate(pem).public_key()) == key_hash(public):
                    return pem
            if len(pems) >= CERTIFICATES_MAX:
                raise TokenRefused(f"{len(pems)} certificates of {name} count already")
            who = Entitled(name, role, _turn(base, name))
            return _note(base, issue(who), name, role, now_ns)

    def note(self, certificate: x509.Certificate, name: str, role: str, now_ns: int) -> None:
        """Note a certificate that was issued without a token. Raises BookError."""
        with self._write() as base:
            _note(base, certificate, name, role, now_ns)

    def revoke(self, name: str, now_ns: int) -> int:
        """Revoke every certificate and token of a name; returns how many certificates."""
        with self._write() as base:
            base.execute("DELETE FROM tokens WHERE name = ? AND used_by IS NULL", (name,))
            update = "UPDATE certificates SET revoked_ns = ? WHERE name = ? AND revoked_ns = 0"
            return base.execute(update, (now_ns, name)).rowcount

    def entries(self) -> list[Entry]:
        """Every certificate that was issued, the oldest first. Raises BookError."""
        with self._write() as base:
            query = "SELECT serial, name, role, issued_ns, ends_ns, revoked_ns FROM certificates"
            return [Entry(*row) for row in base.execute(query + " ORDER BY issued_ns, serial")]

    def turn(self, name: str) -> int:
        """How often a name was revoked; a new certificate of it says so. Raises BookError."""
        with self._write() as base:
            return _turn(base, name)

    def entitled(self, now_ns: int) -> frozenset[Entitled]:
        """Whoever has a certificate that counts now. Raises BookError."""
        query = "SELECT DISTINCT name, role FROM certificates WHERE revoked_ns = 0 AND ends_ns > ?"
        with self._write() as base:
            found = base.execute(query, (now_ns,)).fetchall()
            return frozenset(Entitled(name, role, _turn(base, name)) for name, role in found)


def _turn(base: sqlite3.Connection, name: str) -> int:
    query = "SELECT COUNT(DISTINCT revoked_ns) FROM certificates WHERE name = ? AND revoked_ns > 0"
    return int(base.execute(query, (name,)).fetchone()[0])


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def _note(
    base: sqlite3.Connection, certificate: x509.Certificate, name: str, role: str, now_ns: int
) -> bytes:
    pem = certificate.public_bytes(Encoding.PEM)
    ends_ns = int(certificate.not_valid_after_utc.timestamp()) * 1_000_000_000
    row = (_serial(certificate), name, role, now_ns, ends_ns, pem)
    base.execute(
        "INSERT INTO certificates (serial, name, role, issued_ns, ends_ns, pem)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        row,
    )
    return pem
