"""An OPC UA client that monitors every point it is told of; for `bench.lateness`.

    python -m bench._opcua_watch ENDPOINT TAG_PREFIX COUNT

prints "ready", then answers each line on standard input with the notifications received so far,
and ends with its input.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from asyncua import Client, ua

NAMESPACE: Final = 2
PERIOD_MS: Final = 100
TRIES: Final = 60


class Counter:
    """Counts notifications of data changes."""

    def __init__(self) -> None:
        self.count = 0

    def datachange_notification(self, *_: Any) -> None:
        """One value came."""
        self.count += 1


async def connected(endpoint: str) -> Client:
    """A session, as soon as the server listens."""
    for _ in range(TRIES):
        client = Client(endpoint)
        try:
            await client.connect()
            return client
        except (OSError, TimeoutError, ua.UaError):
            await asyncio.sleep(1)
    raise SystemExit(f"{endpoint} does not answer")


async def watch(endpoint: str, prefix: str, count: int) -> None:
    """Monitor and answer until the input ends."""
    client, counter = await connected(endpoint), Counter()
    async with client:
        subscription = await client.create_subscription(PERIOD_MS, counter)
        names = [f"{prefix}{n // 100}.r{n % 100}" for n in range(count)]
        nodes = [client.get_node(ua.NodeId(name, NAMESPACE)) for name in names]
        await subscription.subscribe_data_change(nodes)
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(counter.count, flush=True)


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], sys.argv[2], int(sys.argv[3])))
