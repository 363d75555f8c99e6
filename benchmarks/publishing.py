"""
`python -m benchmarks.publishing`: a process that publishes as the benchmark tells it, one job a line of JSON.

Owns when how much is sent. The three ways:

- *window*: as fast as the server delivers. Never more than half a second of its own pace is under way, so that nothing
  runs over Redis's output buffer, and a slow server is not measured by its queue. The same rule for all.
- *paced*: so many a second, each alone; ends early when the server falls behind by more than it could ever make up.
- *rounds*: one message to each topic in turn, the next round when all have come.

Every job is answered with {"count": messages a topic, "published": in all, "fell_behind": …}.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.load_client import Progress
from benchmarks.payloads import PAYLOAD_BYTES, payload
from benchmarks.publishers import PUBLISHERS, Publisher, make

__all__ = ["main"]

WINDOW_SECONDS = 0.5
WINDOW_MIN, WINDOW_MAX = 4, 2_000
BATCH = 64
PACE_LOOKED_AT_SECONDS = 0.1
POLL_SECONDS = 0.000_5
# A paced job gives up when so many seconds of messages are under way, a round when nothing came for so long.
BEHIND_SECONDS = 2.0
STUCK_SECONDS = 5.0


def main() -> None:
    """Answer jobs until stdin ends."""
    parser = argparse.ArgumentParser(description="Publishes messages for benchmarks.")
    parser.add_argument("kind", choices=PUBLISHERS)
    parser.add_argument("redis_url")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    publisher = make(options.kind, options.redis_url, options.port)
    ways: dict[str, Callable[..., dict[str, Any]]] = {"window": _window, "paced": _paced, "rounds": _rounds}
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        progress = Progress(Path(job.pop("progress")))
        answer = ways[job.pop("way")](publisher, progress, **job)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    # Whatever connections and event loops there are end with the process.
    os._exit(0)


def _window(
    publisher: Publisher, progress: Progress, *, topics: list[str], subscribers: int, seconds: float
) -> dict[str, Any]:
    (topic,) = topics
    published, window = 0, WINDOW_MIN
    end = time.monotonic() + seconds
    looked_at, delivered_then = time.monotonic(), 0.0
    while (now := time.monotonic()) < end:
        delivered = progress.delivered / subscribers
        if now - looked_at > PACE_LOOKED_AT_SECONDS:
            pace = (delivered - delivered_then) / (now - looked_at)
            # Up at once, down slowly: one interval without a delivery says little.
            window = min(max(round(pace * WINDOW_SECONDS), window // 2, WINDOW_MIN), WINDOW_MAX)
            looked_at, delivered_then = now, delivered
        room = min(window - (published - int(delivered)), BATCH)
        if room < min(window // 2, BATCH):
            time.sleep(POLL_SECONDS)
            continue
        publisher.publish([(topic, payload(published + index + 1)) for index in range(room)])
        published += room
    return {"count": published, "published": published, "fell_behind": False}


def _paced(
    publisher: Publisher,
    progress: Progress,
    *,
    topics: list[str],
    subscribers: int,
    rate: float,
    seconds: float,
    payload_bytes: int = PAYLOAD_BYTES,
) -> dict[str, Any]:
    (topic,) = topics
    begin, published = time.monotonic(), 0
    for number in range(1, round(rate * seconds) + 1):
        time.sleep(max(0.0, begin + (number - 1) / rate - time.monotonic()))
        if published - progress.delivered / subscribers > rate * BEHIND_SECONDS:
            return {"count": published, "published": published, "fell_behind": True}
        publisher.publish([(topic, payload(number, payload_bytes))])
        published = number
    return {"count": published, "published": published, "fell_behind": False}


def _rounds(
    publisher: Publisher, progress: Progress, *, topics: list[str], subscribers: int, seconds: float
) -> dict[str, Any]:
    begin, rounds = time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        rounds += 1
        publisher.publish([(topic, payload(rounds)) for topic in topics])
        until = time.monotonic() + STUCK_SECONDS
        while progress.delivered < rounds * len(topics):
            if time.monotonic() > until:
                return {"count": rounds, "published": rounds * len(topics), "fell_behind": True}
            time.sleep(POLL_SECONDS)
    return {"count": rounds, "published": rounds * len(topics), "fell_behind": False}


if __name__ == "__main__":
    main()
