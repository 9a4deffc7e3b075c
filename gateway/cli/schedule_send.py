"""A schedule from a file to a gateway: over the local stream, or signed over its broker."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.points import PointDef
from gateway.cli.operate import user_name
from gateway.cli.output import EXIT_BAD, CommandFailed
from gateway.cli.schedule_table import read_table
from gateway.cli.session import session
from gateway.cli.site import Target, need_folder
from gateway.core.clock import SystemClock
from gateway.core.schedule import ScheduleError, pack_schedule, schedule_of


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sent: a file, and what the schedule is called."""

    file: Path
    name: str
    kind: str
    end_ns: int | None

    def payload(self, known: Mapping[str, PointDef]) -> dict[str, Any]:
        """The payload of a message; `known`: tag -> point. Raises CommandFailed."""
        points, end_ns = read_table(self.file, known, self.end_ns)
        # Through the same door as on a gateway: what it would refuse as no schedule is told here.
        payload = {"schedule": self.name, "kind": self.kind, "points": points, "end_utc_ns": end_ns}
        try:
            schedule_of("0", 1, "", payload)
        except ScheduleError as error:
            raise CommandFailed(f"{self.file}: {error}") from None
        return payload


@dataclass(frozen=True, slots=True)
class Far:
    """How a signed schedule gets to the gateway.

    files       password, authority, certificate, key of the connection to `broker`
    broker      URL; None = the one of the site's link.json, with the files that stand there
    signed_as   name of the key in the gateway's keys.json
    """

    key: Path
    signed_as: str
    broker: str | None
    files: tuple[str | None, str | None, str | None, str | None]
    life_ns: int
    wait_ns: int


def source() -> str:
    """Who sends, for the audit."""
    return f"command line, {user_name()}"


async def send_here(target: Target, plan: Plan) -> list[dict[str, Any]]:
    """The receipt of the gateway that runs on this machine. Raises CommandFailed."""
    clock = SystemClock()
    async with session(target) as (client, _):
        rows = (await client.request({"type": "read", "tags": []}))["points"]
        payload = plan.payload(_points_of(target, rows))
        schedule = schedule_of(clock.new_id(), clock.utc_ns(), source(), payload)
        try:
            packed = pack_schedule(schedule)
        except ScheduleError as error:
            raise CommandFailed(f"{plan.file}: {error}") from None
        return [receipt async for receipt in client.schedule(packed)]


def _points_of(target: Target, rows: Sequence[Mapping[str, Any]]) -> dict[str, PointDef]:
    """The points of the running gateway; what their channels take, where the site's files say it.

    The gateway judges anyway: what it alone has counts as an output of any range here.
    """
    declared = {point.tag: point for point in target.site.points} if target.site else {}
    return {row["tag"]: declared.get(row["tag"]) or _bare(row) for row in rows}


def _bare(row: Mapping[str, Any]) -> PointDef:
    states = tuple(row["states"])
    return PointDef(0, row["tag"], "", "", writable=True, states=states)


async def send_far(folder: Path, plan: Plan, far: Far) -> list[dict[str, Any]]:
    """Receipts of the gateway of a site folder, over a broker. Raises CommandFailed, SiteError."""
    from cloud.commands import SCHEDULE, CommandClient, Signer
    from cloud.key_files import KeyFileError, load_key
    from config.load import require_site
    from sync.errors import LinkError
    from sync.link.mqtt import TlsFiles, address_of, parse_url
    from sync.plain import WireError

    site = require_site(need_folder(folder))
    payload = plan.payload({point.tag: point for point in site.points})
    try:
        if far.broker is None:
            address = address_of(site.link.Broker)
        else:
            address = parse_url(far.broker, far.files[0], TlsFiles(*far.files[1:]))
        by = Signer(far.signed_as, load_key(far.key), f"{source()} on {socket.gethostname()}")
        async with CommandClient(address, by, SystemClock()) as client:
            message = client.message(site.name, SCHEDULE, payload, life_ns=far.life_ns)
            sent = client.send(message, wait_s=far.wait_ns / 1e9)
            receipts = [receipt async for receipt in sent]
    except (LinkError, KeyFileError, WireError) as error:
        raise CommandFailed(str(error)) from None
    if not receipts:
        raise CommandFailed(f"no receipt: is the gateway {site.name} connected?", EXIT_BAD)
    return receipts
