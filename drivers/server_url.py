"""The key `Server` of instruments that have a URL, and the password that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from config.model import EquipmentTags
from drivers.addresses import Fault
from drivers.errors import NotConnected

PASSWORD_BYTES_MAX: Final = 4096
MQTTS: Final = "mqtts"  # the scheme of brokers that are spoken to over TLS


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """Where a server listens and who asks; `path` begins with a slash or is empty."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    path: str = ""

    def __str__(self) -> str:
        """The URL without the user."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_server(url: str, scheme: str, port: int) -> ServerUrl | None:
    """``scheme://[user@]host[:port][/path]``; None for anything else. `port` is the default."""
    try:
        parts = urlsplit(url)
        number = port if parts.port is None else parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed
        return None
    if parts.scheme != scheme or not parts.hostname or number == 0 or not url.isprintable():
        return None
    if parts.query or parts.fragment or " " in url:
        return None
    user = unquote(parts.username) if parts.username else None
    return ServerUrl(scheme, parts.hostname, number, user, parts.path)


def server_faults(tags: EquipmentTags, scheme: str, default: str | None, port: int) -> list[Fault]:
    """What is wrong with `Server` and `PasswordFile`; `default` is the URL where none is given."""
    url = tags.Server or default
    if url is None:
        text = f"The address is missing. Give Server, e.g. {scheme}://192.168.0.7:{port}."
        return [Fault("Server", "connection-missing", text)]
    server = parse_server(url, scheme, port)
    faults = []
    if _has_password(url):
        text = "The URL holds a password. Put it into a file outside the site folder, PasswordFile."
        faults.append(Fault("Server", "secret-inside", text))
    elif server is None:
        # What stands before the host may be a password, in a URL that nobody can take apart.
        text = f'"{url.rpartition("@")[2]}" is not spoken here. Write {scheme}://[user@]host:port.'
        faults.append(Fault("Server", "connection-missing", text))
    elif tags.PasswordFile is not None and server.user is None:
        text = f"A password needs a user. Write {scheme}://user@host:port into Server."
        faults.append(Fault("PasswordFile", "user-missing", text))
    return faults


def _has_password(url: str) -> bool:
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return False


def password_of(tags: EquipmentTags) -> str | None:
    """The first line of `PasswordFile`; None without one. Raises NotConnected."""
    if tags.PasswordFile is None:
        return None
    try:
        with Path(tags.PasswordFile).open("rb") as file:
            text = file.read(PASSWORD_BYTES_MAX).decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise NotConnected(f"PasswordFile {tags.PasswordFile}: {reason}") from None
    return text.partition("\n")[0].strip()
