"""Stream workers for tests: entries to append, a handler that remembers, and what Redis says of a group."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from realtime.redis import clients, scripts
from realtime.redis.backoff import Backoff
from realtime.redis.keys import Keys
from realtime.streams import Entry, Handler, StreamWorker
from realtime.streams.keys import GroupKeys

__all__ = [
    "Recorder",
    "append",
    "consumers",
    "dead_letters",
    "end_lease",
    "fill_backlog",
    "left_count",
    "pending_count",
    "worker_process",
    "working",
]

STREAM = "notifications"
GROUP = "workers"
ROOT = Path(__file__).resolve().parent.parent.parent


def append(client: redis.Redis, keys: Keys, *names: object) -> list[bytes]:
    """One entry {"name": …} each; returns their ids."""
    with client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.xadd(keys.stream(STREAM), {"name": str(name)})
        return pipeline.execute()


def pending_count(client: redis.Redis, keys: Keys, group: str = GROUP) -> int:
    """How many entries the group was handed and has not finished."""
    return client.xpending(keys.stream(STREAM), group)["pending"]


def left_count(client: redis.Redis, keys: Keys, group: str = GROUP) -> int:
    """How many entries the group has read and not finished, pending or parked."""
    with client.pipeline(transaction=True) as pipeline:
        # In one step, because workers move entries from one to the other.
        pipeline.xpending(keys.stream(STREAM), group)
        pipeline.hlen(keys.parked_entries(STREAM, group))
        pending, parked_count = pipeline.execute()
    return pending["pending"] + parked_count


def consumers(client: redis.Redis, keys: Keys, group: str = GROUP) -> list[str]:
    """The names of the group's consumers."""
    return [consumer["name"].decode() for consumer in client.xinfo_consumers(keys.stream(STREAM), group)]


def dead_letters(client: redis.Redis, keys: Keys, group: str = GROUP) -> list[dict[bytes, bytes]]:
    """The fields of the group's dead letters, oldest first."""
    return [fields for _, fields in client.xrange(keys.dead_letters(STREAM, group))]


def fill_backlog(client: redis.Redis, keys: Keys, key: str, *entries: tuple[str, int, int]) -> None:
    """Park entries of a key, due at once, as workers do: (name, attempts, workers that died with it)."""
    text = """
        redis.pcall('XGROUP', 'CREATE', stream, group, '$', 'MKSTREAM')
        for at = 5, #ARGV, 3 do
          local record = {attempts = ARGV[at + 1], deaths = ARGV[at + 2], seen = ms(now), due_at = 0}
          park('1-' .. (at - 2) / 3, ARGV[4], {'name', ARGV[at], 'of', ARGV[4]}, record)
        end
        release_key(ARGV[4])
    """
    names = GroupKeys(keys.stream(STREAM), GROUP).for_scripts
    values = [value for entry in entries for value in entry]
    client.eval(
        scripts.Script("streams/shared", answer=int).text + text, len(names), *names, GROUP, "", "", key, *values
    )


def end_lease(client: redis.Redis, keys: Keys, worker: StreamWorker) -> None:
    """Let a worker recover, as after a connection was lost."""
    client.set(keys.worker_lease(STREAM, GROUP, worker.consumer), "another", px=60_000)
    worker._wakeup.wake()


class Recorder:
    """
    A handler that remembers the names it was called with.

    Args:
        fail: Called with each name before it counts as handled; may raise.
        gate: While it is not set, calls wait inside the handler.
    """

    def __init__(self, *, fail: Callable[[str], None] | None = None, gate: asyncio.Event | None = None) -> None:
        # Names whose handling returned, in order.
        self.names: list[str] = []
        # The names of each call, failed ones included.
        self.calls: list[list[str]] = []
        # Attempt numbers by name, failed ones included.
        self.attempts: dict[str, list[int]] = {}
        self.running_count = 0
        self.most_running_count = 0
        self._fail = fail
        self._gate = gate

    async def __call__(self, entries: Sequence[Entry]) -> None:
        names = [entry.fields[b"name"].decode() for entry in entries]
        self.calls.append(names)
        for name, entry in zip(names, entries, strict=True):
            self.attempts.setdefault(name, []).append(entry.attempt)
        self.running_count += 1
        self.most_running_count = max(self.most_running_count, self.running_count)
        try:
            if self._gate is not None:
                await self._gate.wait()
            for name in names:
                if self._fail is not None:
                    self._fail(name)
            self.names += names
        finally:
            self.running_count -= 1


@contextlib.asynccontextmanager
async def working(
    url: str, keys: Keys, handler: Handler, *, publisher_url: str = "", **options: Any
) -> AsyncIterator[StreamWorker]:
    """A running worker; it is stopped at the end. With `publisher_url`, only its reads go to `url`."""
    options = {"group": GROUP, "backoff": Backoff(base_seconds=0.01, cap_seconds=0.05), **options}
    group = options.pop("group")
    reader, publisher = clients.async_reader(url), clients.async_publisher(publisher_url or url)
    worker = StreamWorker(
        reader,
        keys.stream(STREAM),
        group,
        handler,
        redis=publisher,
        registry_key=keys.streams(),
        **options,
    )
    running = asyncio.create_task(worker.run(), name="worker under test")
    try:
        yield worker
    finally:
        await worker.stop()
        await running
        # A bot has a thread with a database connection.
        if (close := getattr(handler, "close", None)) is not None:
            close()
        await reader.aclose()
        await publisher.aclose()


@contextlib.contextmanager
def worker_process(url: str, keys: Keys, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, see stream_process.py for its modes; killed at the end."""
    command = [sys.executable, "-m", "tests.support.stream_process", url, keys.prefix, mode]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
