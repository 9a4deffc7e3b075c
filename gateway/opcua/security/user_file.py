"""``users.json`` of the state folder: who may log on to the OPC UA server, with which role."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from config.opcua import ROLES
from gateway.core.files import replace_file
from gateway.opcua.security import passwords
from gateway.opcua.users import Role, User

USERS_MAX: Final = 200
FILE_BYTES_MAX: Final = 1_000_000
CERTIFICATES_MAX: Final = 8
POINTS_MAX: Final = 100

# It stands in receipts as opcua:<user>@<client>.
_NAME: Final = re.compile(r"[^\W_][\w .+-]{0,63}")
_THUMBPRINT: Final = re.compile(r"[0-9A-F]{40}")


class UserFileError(Exception):
    """The file of users can't be used or changed; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A user.

    role          one of ROLES
    points        tags or patterns of what he may set
    password      its hash, "" where he has none
    certificates  thumbprints of his certificates
    """

    name: str
    role: str
    points: tuple[str, ...] = ("*",)
    password: str = ""
    certificates: tuple[str, ...] = ()

    def user(self, proof: str = "") -> User:
        """The user of a session; `proof` is what he logged on with."""
        return User(self.name, Role[self.role.upper()], self.points, proof)


def read_users(path: Path) -> dict[str, Entry]:
    """Users by their names in lower case; none where there is no file. Raises UserFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserFileError(f"{path}: {error.strerror}") from None
    if mode & 0o077:
        raise UserFileError(f"{path}: others may read it; run chmod 600 on it")
    if len(data) > FILE_BYTES_MAX:
        raise UserFileError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        entries = [_entry(one) for one in json.loads(data)["Users"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserFileError(
            f"{path}: not as `gatepost users` writes it ({error}); mend it, or remove it and add "
            "the users again"
        ) from None
    users = {entry.name.casefold(): entry for entry in entries}
    if len(users) != len(entries) or len(users) > USERS_MAX:
        raise UserFileError(f"{path}: a name stands there twice, or there are too many users")
    return users


def _entry(one: Any) -> Entry:
    entry = Entry(
        str(one["Name"]),
        str(one["Role"]),
        tuple(str(pattern) for pattern in one.get("Points", ["*"])),
        str(one.get("Password", "")),
        tuple(str(digits) for digits in one.get("Certificates", [])),
    )
    fault = fault_of(entry)
    if fault:
        raise ValueError(fault)
    return entry


def fault_of(entry: Entry) -> str:
    """Why there can't be such a user; "" where there can."""
    if not _NAME.fullmatch(entry.name):
        return (
            "a user's name begins with a letter or digit and goes on with letters, digits, "
            "spaces and _ . + -, 64 characters at most"
        )
    if entry.role not in ROLES:
        return f"no role {entry.role!r}; there are {', '.join(ROLES)}"
    if entry.password and not passwords.is_hash(entry.password):
        return "the password is no hash that can be used"
    if not all(_THUMBPRINT.fullmatch(digits) for digits in entry.certificates):
        return "a certificate is named by 40 capital hexadecimal digits"
    if len(entry.certificates) > CERTIFICATES_MAX:
        return f"a user has {CERTIFICATES_MAX} certificates at most"
    if len(entry.points) > POINTS_MAX:
        return f"a user has {POINTS_MAX} patterns of points at most"
    return ""


def write_users(path: Path, users: dict[str, Entry]) -> None:
    """Replace the file. Raises UserFileError, OSError."""
    if len(users) > USERS_MAX:
        raise UserFileError(f"{USERS_MAX} users at most")
    shown = []
    for entry in users.values():
        fields = {key.title(): value for key, value in asdict(entry).items() if value != ""}
        shown.append(fields)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, json.dumps({"Users": shown}, indent=2) + "\n", 0o600)


@contextlib.contextmanager
def changing(path: Path) -> Iterator[dict[str, Entry]]:
    """The users, to be changed in place; written at the end, and nobody else changes them.

    Raises UserFileError, OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.parent / ".users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserFileError("another `gatepost users` is changing them: try again") from None
        users = read_users(path)
        yield users
        write_users(path, users)
    finally:
        os.close(descriptor)


def with_password(entry: Entry, password: str) -> Entry:
    """The entry with another password. Raises UserFileError."""
    fault = passwords.fault_of(password)
    if fault:
        raise UserFileError(fault)
    return replace(entry, password=passwords.hashed(password))
