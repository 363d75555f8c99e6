"""
A publisher as a process of its own: `python -m tests.support.topic_process URL TOPIC COUNT HISTORY_SIZE BATCH_SIZE`.

For each line on stdin it publishes the next COUNT numbers, from 1 on, as fast as it can, BATCH_SIZE a round trip. It
ends when stdin does. Tests start one with `publishing`.
"""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import PublishRequest
from realtime.layer import RedisChannelLayer

__all__ = ["Publisher", "publishing"]


class Publisher:
    """The process, which publishes so many numbers for each `start`."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.topic_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Wait until it has published everything."""
        self._process.communicate(timeout=120)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@asynccontextmanager
async def publishing(
    url: str, topic: str, count: int, *, history_size: int, batch_size: int = 100
) -> AsyncIterator[Publisher]:
    """A publisher that is ready; what it was started for is published when the block ends."""
    publisher = Publisher(url, topic, str(count), str(history_size), str(batch_size))
    try:
        await asyncio.to_thread(publisher.wait_ready)
        yield publisher
        await asyncio.to_thread(publisher.finish)
    finally:
        publisher.end()


def main(url: str, topic: str, count: str, history_size: str, batch_size: str) -> None:
    """Publish until stdin ends."""
    layer = RedisChannelLayer([url])
    policy = HistoryPolicy(size=int(history_size))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    numbers = itertools.count(1)
    for _ in sys.stdin:
        for batch in itertools.batched(itertools.islice(numbers, int(count)), int(batch_size)):
            layer.publish_many_now([PublishRequest(topic, b"%d" % number, policy) for number in batch])


if __name__ == "__main__":
    main(*sys.argv[1:])
