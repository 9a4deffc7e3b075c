"""A connection to the gateway that a person means, or the reason why there is none."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.cli.output import CommandFailed
from gateway.cli.site import Target
from gateway.local import LocalClient, LocalError

ANSWER_S: Final = 15.0  # a command's last receipt comes within 10 s, see gateway/local_server.py
STATE_HINT: Final = "--state or GATEPOST_STATE"


@contextlib.asynccontextmanager
async def session(target: Target) -> AsyncIterator[tuple[LocalClient, dict[str, Any]]]:
    """A connection and the gateway's status; raises CommandFailed, also for what happens inside.

    Another site's gateway is refused: a state folder can be mistaken, an output can't.
    """
    client = LocalClient(target.paths.field_socket)
    try:
        async with asyncio.timeout(ANSWER_S):
            await _connect(client, target)
            status = (await client.request({"type": "status"}))["status"]
            _compare(target, status)
            yield client, status
    except LocalError as error:
        raise CommandFailed(str(error)) from error
    except TimeoutError as error:
        raise CommandFailed(f"the field process did not answer within {ANSWER_S:g} s") from error
    finally:
        await client.close()


async def _connect(client: LocalClient, target: Target) -> None:
    try:
        await client.connect()
    except LocalError as error:
        if isinstance(error.__cause__, PermissionError):
            remedy = "it belongs to another user: run this command as the gateway's user"
        elif pid := live_supervisor(target.paths.lock):
            raise CommandFailed(
                f"the field process of the gateway (pid {pid}) is starting or being "
                "restarted; its outputs start safe. Try again in a few seconds"
            ) from error
        else:
            remedy = f"where it keeps its state elsewhere, name that folder with {STATE_HINT}"
        raise CommandFailed(f"{error}; {remedy}") from error


def live_supervisor(lock: Path) -> int:
    """The pid of the supervisor that holds a state folder's lock; 0 where none does."""
    try:
        pid = int(json.loads(lock.read_text(encoding="utf-8"))["supervisor"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    try:
        os.kill(pid, 0)
        with lock.open("rb") as file:  # the number may belong to another process by now
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return pid
    except (OSError, OverflowError):
        return 0
    return 0


def _compare(target: Target, status: Mapping[str, Any]) -> None:
    """Raise CommandFailed where the gateway runs another site than the one that was named."""
    running, named = status["site"], target.site.name if target.site is not None else None
    if named is not None and named != running:
        raise CommandFailed(
            f"the gateway behind {target.paths.folder} runs the site {running}, not {named}. "
            f"Name the state folder of {named} with {STATE_HINT}, or give the folder of {running}"
        )
