"""What the log pipeline costs: a record that a program logs, and a record that a sink writes into a file."""

import asyncio
import gzip
import itertools
import logging
import tempfile
from pathlib import Path
from typing import Any

import uvloop

__all__ = ["LOGGED", "WRITTEN", "log", "write"]

# The streams of the two paths. Neither is read by a sink of the project.
LOGGED, WRITTEN = "logged", "written"
# Records that are logged before the next ones wait until they are sent, and that are put on the stream in a call.
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

    logger, handler, before = logging.getLogger("benchmark"), RedisStreamHandler(stream=LOGGED), count_sent()
    logger.propagate = False
    logger.addHandler(handler)
    logging.disable(logging.NOTSET)
    try:
        for part in itertools.batched(range(count), AT_ONCE):
            for number in part:
                extra = {"queue": "benchmark", "task": {"game_token": f"{number:032d}"}}
                logger.warning("A game: %d points", number, extra=extra)
            handler.flush(60)
    finally:
        logger.removeHandler(handler)
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
    loop, has_all = asyncio.get_running_loop(), asyncio.Event()
    taken = itertools.count(1)

    class HotPath(NdjsonSink):
        url, stream = directory, WRITTEN

        def select(self, record: Any) -> bool:
            # May be called from several threads.
            if next(taken) == count:
                loop.call_soon_threadsafe(has_all.set)
            return True

    service = SinkService([HotPath])
    running = asyncio.create_task(service.run())
    await has_all.wait()
    service.stop(deadline_seconds=600)
    await running
