"""
`python -m benchmarks.map.publishing`: a process that publishes vehicles. Each line of its input is a job, as JSON.

Owns when which feed is sent:

- *open*: read the files of the map.
- *rounds*: so many seconds of all feeds, one after another and without a pause.
- *try*: the same in real time; some vehicles are removed for some seconds, and what Redis does not take is left out.
- *prepare*: make what the next so many seconds of *run* will send, as far as it is known before.
- *run*: so many seconds in real time, each feed once a second, at a moment of its own.

The answer to a job has the first and the last second that it has published, how many updates that were, and by how many
seconds it was late in the end.
"""

import argparse
import contextlib
import json
import os
import random
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.map.files import Times
from benchmarks.map.payloads import NEVER, payload
from benchmarks.map.publishers import PUBLISHERS, Prepared, Publisher, Update, make
from benchmarks.map.world import PERIOD
from realtime.exceptions import RealtimeError

__all__ = ["Feeds", "is_gone", "main"]

SLOTS = 50


def main() -> None:
    """Answer jobs until stdin ends."""
    parser = argparse.ArgumentParser(description="Publishes vehicles for benchmarks.")
    parser.add_argument("kind", choices=PUBLISHERS)
    parser.add_argument("redis_url")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    publisher = make(options.kind, options.redis_url)
    feeds: Feeds | None = None
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        if job["way"] == "open":
            feeds, answer = Feeds(publisher, Path(job["directory"])), {}
        else:
            assert feeds is not None  # noqa: S101 - opened first
            ways = {"rounds": feeds.rounds, "try": feeds.attempt, "prepare": feeds.prepare, "run": feeds.run}
            answer = ways[job["way"]](job["seconds"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)


def is_gone(vehicle: int, second: int) -> bool:
    """Whether a vehicle is removed in a second of *try*: a tenth of them, each for five seconds."""
    return hash((vehicle, second // 5)) % 10 == 0


class Feeds:
    """
    Args:
        publisher: Where updates go.
        directory: The files of the map.
    """

    def __init__(self, publisher: Publisher, directory: Path) -> None:
        self._publisher = publisher
        self._places, feed_of = array("I"), array("I")
        self._places.frombytes((directory / "places").read_bytes())
        feed_of.frombytes((directory / "feeds").read_bytes())
        self._count = len(feed_of)
        self._vehicles: list[list[int]] = [[] for _ in range(max(feed_of) + 1)]
        for vehicle, feed in enumerate(feed_of):
            self._vehicles[feed].append(vehicle)
        self._times = Times(directory / "times", len(self._vehicles))
        order = random.Random(1)  # noqa: S311 - no secret
        self._slots: list[list[int]] = [[] for _ in range(SLOTS)]
        for feed in range(len(self._vehicles)):
            order.choice(self._slots).append(feed)
        # The next second to be published.
        self.second = 0
        # By feed and second.
        self._prepared: dict[tuple[int, int], Prepared] = {}

    def rounds(self, seconds: int) -> dict[str, Any]:
        """Publish all feeds, one after another."""
        first = self.second
        for _ in range(seconds):
            for feed in range(len(self._vehicles)):
                self.publish(feed)
            self.second += 1
        return self._answer(first, late_seconds=0.0)

    def attempt(self, seconds: int) -> dict[str, Any]:
        """Publish each feed once a second, as far as Redis takes it."""
        first, begin, failed = self.second, time.monotonic(), 0
        for number in range(seconds):
            for slot, feeds in enumerate(self._slots):
                time.sleep(max(begin + number + slot / SLOTS - time.monotonic(), 0.0))
                for feed in feeds:
                    updates = self._updates(feed, self.second, time.monotonic_ns() // 1000)
                    try:
                        self._publisher.publish(
                            feed, [each._replace(is_gone=is_gone(each.vehicle, self.second)) for each in updates]
                        )
                    except RealtimeError:
                        failed += 1
            self.second += 1
        return self._answer(first, late_seconds=0.0) | {"failed": failed}

    def prepare(self, seconds: int) -> dict[str, Any]:
        """Make what `run` will send."""
        for second in range(self.second, self.second + seconds):
            for feed in range(len(self._vehicles)):
                self._prepared[feed, second] = self._publisher.prepare(feed, list(self._updates(feed, second, NEVER)))
        return {}

    def run(self, seconds: int) -> dict[str, Any]:
        """Publish each feed once a second."""
        first, begin = self.second, time.monotonic()
        for number in range(seconds):
            for slot, feeds in enumerate(self._slots):
                time.sleep(max(begin + number + slot / SLOTS - time.monotonic(), 0.0))
                for feed in feeds:
                    now = time.monotonic_ns() // 1000
                    self._times.set(feed, self.second, now)
                    self._publisher.send(self._prepared.pop((feed, self.second)), now)
            self.second += 1
        return self._answer(first, late_seconds=max(time.monotonic() - begin - seconds, 0.0))

    def publish(self, feed: int) -> None:
        """The current second of a feed."""
        now = time.monotonic_ns() // 1000
        self._times.set(feed, self.second, now)
        self._publisher.publish(feed, list(self._updates(feed, self.second, now)))

    def _updates(self, feed: int, second: int, now: int) -> Iterator[Update]:
        places, start = self._places, (second % PERIOD) * self._count * 2
        before = ((second - 1) % PERIOD) * self._count * 2
        for vehicle in self._vehicles[feed]:
            at, was = start + vehicle * 2, before + vehicle * 2
            x, y = places[at], places[at + 1]
            past = (places[was], places[was + 1]) if second else None
            yield Update(vehicle, x, y, past, payload(vehicle, second, now, x, y))

    def _answer(self, first: int, *, late_seconds: float) -> dict[str, Any]:
        published = (self.second - first) * self._count
        return {"first": first, "last": self.second - 1, "published": published, "late_seconds": late_seconds}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
