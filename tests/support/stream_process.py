"""
A stream worker as a process that tests may kill: `python -m tests.support.stream_process URL PREFIX MODE`.

Modes: `hang` never finishes what it is handed; `count` counts each name in a hash; `deadly` does so too, and dies by
SIGKILL when it is handed the name "killer".
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

import redis.asyncio

from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.streams import Entry
from tests.support.streams import working


async def main(url: str, prefix: str, mode: str) -> None:
    """Work until killed."""
    keys = Keys(prefix)
    client: redis.asyncio.Redis = clients.async_publisher(url)

    async def handle(entries: Sequence[Entry]) -> None:
        if mode == "hang":
            await asyncio.sleep(3600)
        for entry in entries:
            if mode == "deadly" and entry.fields[b"name"] == b"killer":
                os.kill(os.getpid(), signal.SIGKILL)
            await client.hincrby(keys.counters("handled"), entry.fields[b"name"].decode(), 1)

    async with working(url, keys, handle, lease_seconds=0.5, claim_interval_seconds=0.1, block_seconds=0.1):
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
