"""Where a site keeps what must survive a restart: one state folder, and the names in it."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Final

# struct sockaddr_un holds 108 bytes on Linux and 104 on the BSDs, with the closing zero.
SOCKET_PATH_BYTES_MAX: Final = 103


class StatePaths:
    """The files of one state folder. Nothing is created before `make` is called.

    folder         the state folder, absolute
    field_socket   Unix socket of the local stream; in the temporary folder where the state
                   folder's own path is too long for a socket's address
    store          SQLite file of the link's frames and cursor
    retain         latches and bypasses of the field process
    learned        which blocks the devices refuse
    inbox          SQLite file of the ids of messages from outside that the link has handled
    schedules      folder of the schedules that the field process executes
    tls            folder of the gateway's certificate and key, where it was enrolled
    opcua          folder of the OPC UA server's certificates and users
    archive        SQLite file of the history that OPC UA clients can read
    lock           held by the supervisor that runs this site
    logs           folder of log files
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.field_socket = _socket_path(self.folder)
        self.store = self.folder / "link.sqlite"
        self.retain = self.folder / "retain.json"
        self.learned = self.folder / "learned.json"
        self.inbox = self.folder / "inbox.sqlite"
        self.schedules = self.folder / "schedules"
        self.tls = self.folder / "tls"
        self.opcua = self.folder / "opcua"
        self.archive = self.folder / "history.sqlite"
        self.lock = self.folder / "lock"
        self.logs = self.folder / "logs"

    def make(self) -> None:
        """Create the folders; others of the machine can't read them. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def __repr__(self) -> str:
        return f"StatePaths({str(self.folder)!r})"


def default_state_folder(site_name: str) -> Path:
    """The state folder of a site that names none.

    ``$GATEPOST_STATE/<site>`` where that is set, else ``$XDG_STATE_HOME/gatepost/<site>``, else
    ``~/.local/state/gatepost/<site>`` (XDG Base Directory Specification 0.8). A relative
    ``$XDG_STATE_HOME`` is ignored, as that specification asks.
    """
    name = _folder_name(site_name)
    chosen = os.environ.get("GATEPOST_STATE", "")
    if chosen:
        return Path(os.path.abspath(chosen)) / name
    xdg = os.environ.get("XDG_STATE_HOME", "")
    base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".local" / "state"
    return base / "gatepost" / name


def _socket_path(folder: Path) -> Path:
    path = folder / "field.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    # Both processes work out the same name from the folder, so nothing has to be passed on.
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"gatepost-{digest}.sock"


def _folder_name(site_name: str) -> str:
    """`site_name` as one folder's name: no separators, no leading dot, never empty."""
    name = re.sub(r"[^\w.-]+", "-", site_name).strip("-.")
    return name or "site"
