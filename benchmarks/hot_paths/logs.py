"""What the log pipeline costs: a record that a program logs, and a record that a sink writes into a file."""

import asyncio
import gzip
import itertools
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

__all__ = ["LOGGED", "WRITTEN", "log", "write"]

# The streams of the two paths. Neither is read by a sink of the project.
LOGGED, WRITTEN = "logged", "written"
# So many records are logged before they are sent, and so many are put on the stream in one call.
AT_ONCE = 50
RECORD = (
    b'{"level":"INFO","timestamp":"2026-01-02T03:04:05.678901Z","logger":"benchmark","message":"A game: %d points",'
    b'"queue":"benchmark","task":{"game_token":"%032d"}}'
)


def log(count: int) -> None:
    """Log records, and send them to Redis."""
    from realtime.conf import keys, sync_redis
    from realtime.logs import RedisStreamHandler

    def count_sent() -> Any:
        return sync_redis().xlen(keys().stream(LOGGED))

    before = count_sent()
    # Records are sent when this says so, however long logging takes.
    logger, handler = logging.getLogger("benchmark"), RedisStreamHandler(stream=LOGGED, gather_seconds=60)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        for part in itertools.batched(range(count), AT_ONCE):
            for number in part:
                extra = {"queue": "benchmark", "task": {"game_token": f"{number:032d}"}}
                logger.warning("A game: %d points", number, extra=extra)
            handler.flush(60)
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        handler.close()
    if (found := count_sent() - before) != count:
        raise SystemExit(f"{found} of {count} records are on the stream")


def write(count: int) -> None:
    """Put records on the stream, and let a sink write them into a file."""
    with tempfile.TemporaryDirectory() as directory:
        uvloop.run(_write(count, directory))
        lines = [
            line for path in Path(directory).rglob("*.gz") for line in gzip.decompress(path.read_bytes()).splitlines()
        ]
    if len(lines) != count:
        raise SystemExit(f"{len(lines)} of {count} records are in files")


async def _write(count: int, directory: str) -> None:
    from realtime.conf import keys, sync_redis
    from realtime.sinks import NdjsonSink
    from realtime.sinks.service import SinkService

    for part in itertools.batched(range(count), AT_ONCE):
        with sync_redis().pipeline(transaction=False) as pipeline:
            for number in part:
                pipeline.xadd(keys().stream(WRITTEN), {"record": RECORD % (number, number)})
            pipeline.execute()
    has_all, left = asyncio.Event(), count

    class HotPath(NdjsonSink):
        url, stream = directory, WRITTEN
        # One file, however long it takes.
        roll_records, roll_seconds = count, 600.0

        def make_handler(self, resources: Any) -> Any:
            handler: Any = super().make_handler(resources)
            on_acked = handler.on_acked

            def count_acked(entries: Sequence[Any]) -> None:
                nonlocal left
                on_acked(entries)
                left -= len(entries)
                if left == 0:
                    has_all.set()

            handler.on_acked = count_acked
            return handler

    service = SinkService([HotPath])
    running = asyncio.create_task(service.run())
    await has_all.wait()
    service.stop(deadline_seconds=600)
    await running
