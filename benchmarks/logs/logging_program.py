"""
`python -m benchmarks.logs.logging_program WAY URL CALLS BURST`: log, and print what it took as JSON.

Owns the handlers of the other ways, each as its documentation has it, and the measurements.
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
# Calls that are timed together. After each block, what it logged is sent, so that no queue grows.
BLOCK = 50


class _InCall(logging.Handler):
    """Sends each record in the call, with a pooled client."""

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
    handler, finish, sent_count = _made(way, url, client)
    logger = logging.getLogger("benchmark")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    # The first ones open connections and load scripts.
    _log(logger, BLOCK)
    finish()
    call_times, handle_times = [], []
    record = logger.makeRecord("benchmark", logging.INFO, __file__, 1, MESSAGE, arguments(1), None, extra=extra(1))
    for _ in range(max(1, calls // BLOCK)):
        gc.collect()
        call_times.append(_log(logger, BLOCK))
        finish()
        begin = time.perf_counter()
        for _ in range(BLOCK):
            handler.handle(record)
        handle_times.append(time.perf_counter() - begin)
        finish()
    before = sent_count()
    wall, cpu = time.perf_counter(), time.process_time()
    for at in range(0, burst, BLOCK):
        _log(logger, min(BLOCK, burst - at))
    called = time.perf_counter() - wall
    finish()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures = {
        "call_us": statistics.median(call_times) / BLOCK * 1e6,
        "handle_us": statistics.median(handle_times) / BLOCK * 1e6,
        "burst_call_us": called / burst * 1e6,
        "records_per_second": burst / wall,
        "cpu_us": cpu / burst * 1e6,
    }
    if way != "nothing":
        figures |= {"lost": burst - (sent_count() - before), "doubled": 0}
    sys.stdout.write(json.dumps(figures) + "\n")
    # The listener's thread.
    logging.shutdown()


def _log(logger: logging.Logger, count: int) -> float:
    """Log some records; returns the seconds."""
    begin = time.perf_counter()
    for number in range(count):
        logger.info(MESSAGE, *arguments(number), extra=extra(number))
    return time.perf_counter() - begin


def _made(way: str, url: str, client: redis.Redis) -> tuple[logging.Handler, Callable[[], object], Callable[[], int]]:
    """A handler, what waits until its records are sent, and how many were."""

    def on_stream() -> int:
        length: int = client.xlen(STREAM)  # type: ignore[assignment]
        return length

    if way == "signalbox":
        ours = RedisStreamHandler(redis_url=url, key_prefix="", queue_records=1_000_000, queue_bytes=1 << 30)
        return ours, lambda: ours.flush(60), on_stream
    if way == "listener":
        waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        target = _InCall(client, "xadd")
        listener = logging.handlers.QueueListener(waiting, target)
        listener.start()
        queue_handler = logging.handlers.QueueHandler(waiting)
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
    in_call = _InCall(client, way)
    return in_call, lambda: None, lambda: in_call.sent_count


if __name__ == "__main__":
    main()
