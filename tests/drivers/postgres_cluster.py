"""A throw-away PostgreSQL server on loopback, from the packages of the system."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ADMIN = "rig_admin"
READER = "rig_reader"
PASSWORD = "correct horse battery staple"
DATABASE = "rig"


def binaries() -> Path:
    """The folder with initdb: Debian keeps it off the path. Of several versions the newest."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: [int(part) for part in path.parts[4].split(".")],
    )
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise AssertionError("no PostgreSQL server here: run tools/system-packages")
    return found[-1].parent if found else Path(on_path or "").parent


class Cluster:
    """A server with one database; users of the network need a password (scram-sha-256)."""

    def __init__(self, free_port: Callable[[], int]) -> None:
        self.binaries = binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="gatepost-postgres-"))
        self.port = 0
        self._free_port = free_port
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # initdb and postgres refuse to run as root
            user = next(n for n in ("postgres", "nobody") if _exists(n))
            account = pwd.getpwnam(user)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}"]
            self._as_user = ["setpriv", *ids, "--clear-groups"]
        self._initialise()

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        os.chmod(secret, 0o644)
        options = ["--no-sync", "--locale=C", "--encoding=UTF8", f"--username={ADMIN}"]
        options += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"]
        self._run("initdb", "-D", str(self.folder / "data"), *options)

    def _run(self, program: str, *arguments: str) -> str:
        command = [*self._as_user, str(self.binaries / program), *arguments]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd="/", timeout=60
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def start(self) -> None:
        """Start and wait until it takes connections; the second time on the same port."""
        self.port = self.port or self._free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "max_connections": "20",
            "shared_buffers": "4MB",
            "autovacuum": "off",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        place = ["-D", str(self.folder / "data"), "-p", str(self.port)]
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [*self._as_user, str(self.binaries / "postgres"), *place, *options],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        for _ in range(600):
            ready = subprocess.run(
                [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)],
                timeout=60,
                check=False,
            )
            if ready.returncode == 0:
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def encrypt(self, certificate: bytes, key: bytes) -> None:
        """Offer TLS with this certificate from now on; with an empty one no more."""
        data = self.folder / "data"
        for name, content in (("server.crt", certificate), ("server.key", key)):
            place = data / name
            place.write_bytes(content)
            os.chmod(place, 0o600)
            owner = data.stat()
            os.chown(place, owner.st_uid, owner.st_gid)
        self.sql(f"ALTER SYSTEM SET ssl = {'on' if certificate else 'off'}")
        self.sql("SELECT pg_reload_conf()")
        wanted = "on" if certificate else "off"
        for _ in range(600):
            if self.sql("SHOW ssl") == wanted:
                return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End it at once, sessions included."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)

    def remove(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder)

    def sql(self, *statements: str, database: str = DATABASE) -> str:
        """Run as administrator; returns what psql prints, unaligned."""
        options = ["-h", str(self.folder), "-p", str(self.port), "-U", ADMIN, "-d", database]
        commands = [part for statement in statements for part in ("-c", statement)]
        quiet = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        return self._run("psql", *options, *quiet, *commands).strip()


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
