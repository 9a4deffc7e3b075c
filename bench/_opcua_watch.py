"""An OPC UA client that monitors points and only counts what comes; for `bench`.

    python -m bench._opcua_watch ENDPOINT TAG_PREFIX COUNT [PERIOD_MS [FIRST [FOLDER]]]

prints "ready", then answers each line on standard input with the notifications received so far,
and ends with its input. With FOLDER its messages are signed and encrypted (Basic256Sha256), with
client.der and client.pem from there. Notifications are counted in the bytes and not decoded, so
that a client takes little of the machine that the server under test runs on.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any, Final

from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

from bench._opcua_server import CLIENT_URI

NAMESPACE: Final = 2
PERIOD_MS: Final = 100
TRIES: Final = 60
PUBLISHES: Final = 4  # requests that wait at the server
_HEAD_BYTES: Final = 4 + 24  # TypeId; ResponseHeader without diagnostics and strings
_REQUEST_S: Final = 3600.0


async def connected(endpoint: str, folder: str = "") -> Client:
    """A session, as soon as the server listens; encrypted where `folder` has a certificate."""
    for _ in range(TRIES):
        # Its watchdog cuts the connection where an answer takes longer than the interval.
        client = Client(endpoint, timeout=20, watchdog_intervall=20)
        try:
            if folder:
                client.application_uri = CLIENT_URI
                await client.set_security(
                    SecurityPolicyBasic256Sha256, f"{folder}/client.der", f"{folder}/client.pem"
                )
            await client.connect()
            return client
        except (OSError, TimeoutError, ua.UaError):
            await asyncio.sleep(1)
    raise SystemExit(f"{endpoint} does not answer")


class Watch:
    """One subscription; `count` notifications of data came."""

    def __init__(self, client: Client) -> None:
        self.count = 0
        self._send = client.uaclient.protocol.send_request
        self._token = client.uaclient.session.authentication_token
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, request: Any) -> bytes:
        """The encoded response to a request."""
        request.RequestHeader.AuthenticationToken = self._token
        return bytes(await self._send(request, timeout=_REQUEST_S))

    async def start(self, names: list[str], period_ms: float) -> None:
        """Create the subscription and its items, and ask for notifications."""
        request = ua.CreateSubscriptionRequest()
        request.Parameters = ua.CreateSubscriptionParameters(period_ms, 600, 20, 0, True, 0)
        body = await self.ask(request)
        (number,) = struct.unpack_from("<I", body, _HEAD_BYTES)
        asked = ua.MonitoringParameters(SamplingInterval=period_ms, QueueSize=1)
        items = [
            ua.MonitoredItemCreateRequest(
                ua.ReadValueId(ua.NodeId(name, NAMESPACE), ua.AttributeIds.Value),
                ua.MonitoringMode.Reporting,
                asked,
            )
            for name in names
        ]
        both = ua.TimestampsToReturn.Both
        for first in range(0, len(items), 1000):
            create = ua.CreateMonitoredItemsRequest()
            part = items[first : first + 1000]
            create.Parameters = ua.CreateMonitoredItemsParameters(number, both, part)
            await self.ask(create)
        self._tasks = [asyncio.create_task(self._publish()) for _ in range(PUBLISHES)]

    def check(self) -> None:
        """Raises what ended the waiting for notifications, if anything did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _publish(self) -> None:
        acknowledged: list[ua.SubscriptionAcknowledgement] = []
        while True:
            request = ua.PublishRequest()
            request.Parameters = ua.PublishParameters(acknowledged)
            body = await self.ask(request)
            number, available = struct.unpack_from("<Ii", body, _HEAD_BYTES)
            at = _HEAD_BYTES + 8 + 4 * max(0, available) + 1
            sequence, _, parts = struct.unpack_from("<Iqi", body, at)
            acknowledged = []
            if parts > 0:
                # NodeId of four bytes, encoding, length, then the number of notifications.
                self.count += struct.unpack_from("<i", body, at + 16 + 9)[0]
                acknowledged = [ua.SubscriptionAcknowledgement(number, sequence)]


async def watch(
    endpoint: str, prefix: str, count: int, period_ms: float, first: int, folder: str
) -> None:
    """Monitor and answer until the input ends."""
    client = await connected(endpoint, folder)
    async with client:
        names = [f"{prefix}{n // 100}.r{n % 100}" for n in range(first, first + count)]
        seen = Watch(client)
        await seen.start(names, period_ms)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            seen.check()
            print(seen.count, flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    asyncio.run(
        watch(
            given[0],
            given[1],
            int(given[2]),
            float(given[3]) if len(given) > 3 else PERIOD_MS,
            int(given[4]) if len(given) > 4 else 0,
            given[5] if len(given) > 5 else "",
        )
    )
