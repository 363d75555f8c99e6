"""
`python -m benchmarks.logs.writing_program WAY URL DIRECTORY`: write the records of a stream until it is ended.

Owns the sinks that are measured, and a plain loop with redis-py, which takes over nothing from a worker that died.
"""

import gzip
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import django
import redis

__all__ = ["main"]

BATCH = 500
FILE_RECORDS = 20_000


def main() -> None:
    """Do what the command line says."""
    way, url, directory = sys.argv[1:]
    if way == "plain":
        _plain(url, Path(directory))
    else:
        os.environ["REDIS_URL"] = url
        django.setup()
        _sink(directory, selects=way == "select")


def _sink(directory: str, *, selects: bool) -> None:
    import uvloop

    from realtime.sinks import NdjsonSink
    from realtime.sinks.service import SinkService

    class Archive(NdjsonSink):
        url = directory
        roll_records = FILE_RECORDS
        roll_seconds = 1.0

    if selects:
        Archive.queues = ("benchmark",)
        Archive.select = lambda self, record: record.level == "INFO"  # type: ignore[method-assign]
        Archive.transform = lambda self, record: {"task": record.task, "at": record.timestamp}  # type: ignore[method-assign]
    uvloop.run(SinkService([Archive]).run())


def _plain(url: str, directory: Path) -> None:
    """Collect records for a file, make the file durable, and ack its entries; again and again."""
    directory.mkdir(parents=True, exist_ok=True)
    client = redis.Redis.from_url(url)
    while True:
        entries: list[Any] = []
        while len(entries) < FILE_RECORDS:
            answer: Any = client.xreadgroup("Archive", "plain", {"logs": ">"}, count=BATCH, block=1_000)
            if not answer:
                break
            entries += answer[0][1]
        if not entries:
            continue
        body = gzip.compress(b"\n".join((*(fields[b"record"] for _, fields in entries), b"")), 3)
        path = directory / f"{uuid.uuid4().hex}.ndjson.gz"
        with path.with_suffix(".tmp").open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".tmp").rename(path)
        ids = [id for id, _ in entries]
        for start in range(0, len(ids), BATCH):
            client.xack("logs", "Archive", *ids[start : start + BATCH])


if __name__ == "__main__":
    main()
