"""Store and forwarder as a process of their own, fed with numbered rows; killed by the tests.

Arguments: store, broker URL, last number. Like a link process it resumes at its cursor.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from config.link import BrokerEntry
from gateway.core.clock import SystemClock
from sync.link.forward import Forwarder
from sync.store.async_store import AsyncStore
from tests.sync import support

BATCH = 20


async def main() -> None:
    path, url, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    store = await AsyncStore.open(path, quota_bytes=10**9)
    entry = BrokerEntry(URL=url, KeepAlive=2)
    forwarder = Forwarder(store, "cloud", entry, "lab", SystemClock(), timing=support.QUICK)
    cursor = await store.cursor()
    first = cursor[1] + 1 if cursor else 1
    await store.put_birth(support.BIRTH, support.birth_bytes())
    running = asyncio.create_task(forwarder.run())
    print("ready", flush=True)
    while first <= last:
        await store.append(support.batch(first, BATCH, events=(first,)))
        forwarder.notify_appended()
        first += BATCH
        print(first - 1, flush=True)
        await asyncio.sleep(0.005)
    await running


if __name__ == "__main__":
    asyncio.run(main())
