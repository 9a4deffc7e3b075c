"""Appends for ever and says how far it came; killed by the tests. Arguments: store, first."""

from __future__ import annotations

import sys
from pathlib import Path

from sync.store.store import Store
from tests.sync import support


def main() -> None:
    store = Store(Path(sys.argv[1]), quota_bytes=10**9)
    cursor = store.cursor()
    first = cursor[1] + 1 if cursor else 1
    store.put_birth(support.BIRTH, support.birth_bytes())
    print("ready", flush=True)
    while True:
        store.append(support.batch(first, 50, events=(first,)))
        first += 50
        print(first - 1, flush=True)


if __name__ == "__main__":
    main()
