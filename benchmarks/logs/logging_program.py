"""
`python -m benchmarks.logs.logging_program WAY URL CALLS BURST`: log to Redis, and print the figures as JSON.

Owns the measurements, and the handlers that are not ours, each set up as its documentation says. Does not own the
records (payloads).
"""

import gc
import json
import logging
import logging.handlers
import queue
import statistics
import sys
import time
from collections.abc import Callable

import redis

from benchmarks.logs.payloads import MESSAGE, arguments, extra
from realtime.logs import RedisStreamHandler

__all__ = ["main"]

STREAM = "logs"
# The calls that are timed together. The next block begins when their records are sent, so that no queue grows.
BLOCK = 50


class _SendInCall(logging.Handler):
    """Sends each record in the logging call, with a pooled client."""

    def __init__(self, client: redis.Redis, command: str) -> None:
        super().__init__()
        self._client, self._command = client, command
        self.sent_count = 0

    def emit(self, record: logging.LogRecord) -> None:
        body = json.dumps(
            {
                "level": record.levelname,
                "timestamp": record.created,
                "logger": record.name,
                "message": record.getMessage(),
                "queue": record.queue,  # type: ignore[attr-defined]
                "task": record.task,  # type: ignore[attr-defined]
            }
        )
        if self._command == "publish":
            self._client.publish("logs", body)
        else:
            self._client.xadd(STREAM, {"record": body})
        self.sent_count += 1


def main() -> None:
    """Do what the command line says."""
    way, url, calls, burst = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    client = redis.Redis.from_url(url)
    handler, finish, sent_count = _make_handler(way, url, client)
    logger = logging.getLogger("benchmark")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    # The first records open connections and load scripts.
    _log(logger, BLOCK)
    finish()
    figures = _measure_blocks(logger, handler, finish, max(1, calls // BLOCK))
    before = sent_count()
    figures |= _measure_burst(logger, finish, burst)
    if way != "nothing":
        missing = burst - (sent_count() - before)
        figures |= {"lost": max(0, missing), "doubled": max(0, -missing)}
    sys.stdout.write(json.dumps(figures) + "\n")


def _measure_blocks(
    logger: logging.Logger, handler: logging.Handler, finish: Callable[[], object], count: int
) -> dict[str, float]:
    """The time of a whole logging call, and of the handler alone: medians of blocks."""
    call_times, handle_times = [], []
    record = logger.makeRecord("benchmark", logging.INFO, __file__, 1, MESSAGE, arguments(1), None, extra=extra(1))
    for _ in range(count):
        gc.collect()
        call_times.append(_log(logger, BLOCK))
        finish()
        begin = time.perf_counter()
        for _ in range(BLOCK):
            handler.handle(record)
        handle_times.append(time.perf_counter() - begin)
        finish()
    return {
        "call_us": statistics.median(call_times) / BLOCK * 1e6,
        "handle_us": statistics.median(handle_times) / BLOCK * 1e6,
    }


def _measure_burst(logger: logging.Logger, finish: Callable[[], object], count: int) -> dict[str, float]:
    """Log without a pause. The rate and the CPU time include sending all records."""
    wall, cpu = time.perf_counter(), time.process_time()
    for at in range(0, count, BLOCK):
        _log(logger, min(BLOCK, count - at))
    calls = time.perf_counter() - wall
    finish()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "burst_call_us": calls / count * 1e6,
        "records_per_second": count / wall,
        "cpu_us": cpu / count * 1e6,
    }


def _log(logger: logging.Logger, count: int) -> float:
    """Log this many records; returns how many seconds it took."""
    begin = time.perf_counter()
    for number in range(count):
        logger.info(MESSAGE, *arguments(number), extra=extra(number))
    return time.perf_counter() - begin


def _make_handler(
    way: str, url: str, client: redis.Redis
) -> tuple[logging.Handler, Callable[[], object], Callable[[], int]]:
    """A handler, a function that waits until its records are sent, and a function that counts the sent ones."""

    def on_stream() -> int:
        length: int = client.xlen(STREAM)  # type: ignore[assignment]
        return length

    if way == "signalbox":
        ours = RedisStreamHandler(redis_url=url, key_prefix="", queue_records=1_000_000, queue_bytes=1 << 30)
        return ours, lambda: ours.flush(60), on_stream
    if way == "listener":
        records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        target = _SendInCall(client, "xadd")
        listener = logging.handlers.QueueListener(records, target)
        listener.start()
        queue_handler = logging.handlers.QueueHandler(records)
        put_count = 0

        def count(record: logging.LogRecord) -> bool:
            nonlocal put_count
            put_count += 1
            return True

        queue_handler.addFilter(count)

        def wait() -> None:
            while target.sent_count < put_count:
                time.sleep(0.001)

        return queue_handler, wait, on_stream
    if way == "nothing":
        return logging.NullHandler(), lambda: None, lambda: 0
    in_call = _SendInCall(client, way)
    return in_call, lambda: None, lambda: in_call.sent_count


if __name__ == "__main__":
    main()
