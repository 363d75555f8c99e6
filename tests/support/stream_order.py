"""
A worker that keeps the order of its keys, as a process that tests may kill, and a checker of what such processes did:
`python -m tests.support.stream_order URL PREFIX SEED`.

Each attempt is written to a Redis list when it begins and when it ends, so that the log has one order.
"""

import asyncio
import os
import random
import sys
from collections.abc import Iterable, Sequence

import redis.asyncio

from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.streams import Entry
from tests.support.streams import STREAM, working

__all__ = ["FAILING", "check", "log_key"]

# Entries with this remainder of their number by 10 fail at first.
FAILING = 3
OPTIONS = {
    "order_field": "of",
    "batch_size": 4,
    "concurrency": 4,
    # Not shorter, because a worker that stands still for longer loses its entries. Tests end the leases of the dead.
    "lease_seconds": 10.0,
    "claim_interval_seconds": 0.1,
    "block_seconds": 0.2,
    "max_attempts": 100,
}


def log_key(keys: Keys) -> str:
    """The list of what was done: "begin|end pid key number"."""
    return keys.counters("order")


def check(log: Iterable[bytes]) -> tuple[dict[bytes, list[int]], int]:
    """
    Go through a log, and fail where a key is out of order or in two handlers.

    Returns:
        Per key, the numbers in the order in which they were first done; and how many were done again.
    """
    done: dict[bytes, list[int]] = {}
    running: dict[bytes, tuple[bytes, int]] = {}
    again_count = 0
    dead: set[bytes] = set()
    for line in log:
        what, pid, key, number = line.split()
        if what == b"killed":
            dead.add(pid)
            continue
        at = int(number)
        numbers = done.setdefault(key, [])
        if what == b"begin":
            other = running.get(key)
            assert other is None or other[0] == pid or other[0] in dead, f"{line!r} while {other} is at it"
            assert at <= (numbers[-1] if numbers else -1) + 1, f"{line!r} before the one before it: {numbers[-3:]}"
            running[key] = (pid, at)
        elif what == b"end":
            assert running.pop(key) == (pid, at), f"{line!r} was not begun"
            if at > (numbers[-1] if numbers else -1):
                numbers.append(at)
            else:
                again_count += 1
        else:
            del running[key]
    return done, again_count


async def main(url: str, prefix: str, seed: str) -> None:
    """Work until killed."""
    keys = Keys(prefix)
    client: redis.asyncio.Redis = clients.async_publisher(url)
    chance = random.Random(seed)  # noqa: S311 - makes schedules, keeps no secret
    pid = os.getpid()

    async def handle(entries: Sequence[Entry]) -> None:
        for entry in entries:
            key, number = entry.fields[b"of"].decode(), int(entry.fields[b"name"])
            await client.rpush(log_key(keys), f"begin {pid} {key} {number}")
            if number % 10 == FAILING and chance.random() < 0.5:
                await client.rpush(log_key(keys), f"fail {pid} {key} {number}")
                raise ValueError(number)
            await asyncio.sleep(chance.random() * 0.004)
            await client.rpush(log_key(keys), f"end {pid} {key} {number}")

    async with working(url, keys, handle, consumer=str(pid), **OPTIONS):
        await asyncio.sleep(3600)


def append_numbers(client: redis.Redis, keys: Keys, *, keys_count: int, each: int, seed: int) -> None:
    """For each key the numbers from 0 on, in their order, the keys mixed."""
    chance = random.Random(seed)  # noqa: S311 - makes schedules, keeps no secret
    left = {f"k{number}": iter(range(each)) for number in range(keys_count)}
    with client.pipeline(transaction=False) as pipeline:
        while left:
            key = chance.choice(list(left))
            number = next(left[key], None)
            if number is None:
                del left[key]
            else:
                pipeline.xadd(keys.stream(STREAM), {"of": key, "name": number})
        pipeline.execute()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
