"""
A publisher as a process of its own: `python -m tests.support.topic_process URL TOPIC COUNT HISTORY_SIZE BATCH_SIZE`.

Publishes the numbers from 1 to COUNT, as fast as it can, BATCH_SIZE a round trip. Once it is ready it waits for a line
on stdin. Tests start one with `publishing`.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import PublishRequest
from realtime.layer import RedisChannelLayer
from tests.support.waiting import wait_until

__all__ = ["Publisher", "publishing"]


class Publisher:
    """The process, which publishes from `start` on."""

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

    @property
    def is_done(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@asynccontextmanager
async def publishing(
    url: str, topic: str, count: int, *, history_size: int, batch_size: int = 100
) -> AsyncIterator[Publisher]:
    """A publisher that is ready; in the end it is waited for, so that it must have been started."""
    publisher = Publisher(url, topic, str(count), str(history_size), str(batch_size))
    try:
        await asyncio.to_thread(publisher.wait_ready)
        yield publisher
        await wait_until(lambda: publisher.is_done)
    finally:
        publisher.end()


def main(url: str, topic: str, count: str, history_size: str, batch_size: str) -> None:
    """Publish, and end."""
    layer = RedisChannelLayer([url])
    policy = HistoryPolicy(size=int(history_size))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for start in range(1, int(count) + 1, int(batch_size)):
        numbers = range(start, min(start + int(batch_size), int(count) + 1))
        layer.publish_many_now([PublishRequest(topic, b"%d" % number, policy) for number in numbers])


if __name__ == "__main__":
    main(*sys.argv[1:])
