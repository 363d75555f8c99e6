"""
The `logging` handler.

Owns its options, and which records it sends. Does not own their form (record) nor when they are sent (sender).
"""

import functools
import logging
import threading
import weakref
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

import redis

from realtime.conf import get_settings, join_embedded_server, keys
from realtime.logs.record import encode_record
from realtime.logs.sender import Sender, SenderLimits
from realtime.logs.spill import Spill
from realtime.logs.stream import DEFAULT_STREAM, GUARD_SECONDS, RECORD_FIELD, RECORD_LIMIT_BYTES, STREAM_LIMIT
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.statistics import register, unregister
from realtime.streams.append import append_entries
from realtime.untrusted.text import printable

__all__ = ["RedisStreamHandler", "is_in_sink", "send_spilled"]

# How long the sender waits for an answer of Redis. New records are queued meanwhile.
TIMEOUT_SECONDS = 2.0
# The names of this package's loggers begin with this.
_OWN = "realtime."

# True in the workers of sinks. There, records of this package are not sent: a record that says that another one failed
# would be one more record that fails.
is_in_sink: ContextVar[bool] = ContextVar("is_in_sink", default=False)

# The handlers of this process.
_handlers: "weakref.WeakSet[RedisStreamHandler]" = weakref.WeakSet()


def send_spilled() -> None:
    """
    Let all handlers of this process send what is in their spill directories, also if nothing is logged.

    Call it when Django's settings are complete: they say where Redis is. It does not wait until the files are sent.
    """
    for handler in list(_handlers):
        # `emit` holds this lock, too: only one of them may start the thread.
        handler.acquire()
        try:
            handler._sender.send_spilled()
        finally:
            handler.release()


class RedisStreamHandler(logging.Handler):
    """
    Appends log records to a Redis Stream. `LOGGING` alone configures it::

        "handlers": {
            "pipeline": {"class": "realtime.logs.RedisStreamHandler", "spill_directory": BASE_DIR / "var/logs"},
        },

    Args:
        level: The lowest level of the records that are sent.
        stream: The name of the stream.
        queued_only: Send only records with `extra={"queue": …}`.
        spill_directory: Where records are written while Redis does not take them. Without it, they wait in memory.
        spill_limit_bytes: The most bytes of these files, of all processes together.
        stream_limit: The most entries of the stream. While it has that many, because sinks are too slow or do not run,
            records are spilled or wait, as if Redis were unavailable. 0 for no limit.
        queue_records, queue_bytes: The most that may wait in memory. Further records are dropped and counted.
        gather_seconds: How long records are gathered before they are sent together.
        exit_seconds: The longest wait of `flush`, and of `close`, until records are sent or spilled. At the end of the
            process, `logging` calls both.
        redis_url, key_prefix: By default those of the setting REALTIME.

    Guarantees:
        A logging call takes some microseconds. It never waits for Redis or the disk, and never raises one of their
        errors. The records of a process arrive in the order of the calls. A record that was not dropped arrives once;
        if an outage lasts longer than five minutes, it may arrive twice. A process that is killed loses the records
        that are in its memory: those of the last moment, or, without `spill_directory`, those since Redis became
        unavailable. A record of more than 1 MiB of JSON is dropped and counted.
    """

    # For `logging.shutdown`: `close` does all that `flush` does, and both would wait for `exit_seconds`.
    flushOnClose = False

    def __init__(
        self,
        level: int | str = logging.NOTSET,
        *,
        stream: str = DEFAULT_STREAM,
        queued_only: bool = False,
        spill_directory: str | Path | None = None,
        spill_limit_bytes: int = 256 << 20,
        stream_limit: int = STREAM_LIMIT,
        queue_records: int = 50_000,
        queue_bytes: int = 32 << 20,
        gather_seconds: float = 0.05,
        exit_seconds: float = 3.0,
        redis_url: str | None = None,
        key_prefix: str | None = None,
    ) -> None:
        super().__init__(level)
        self._stream, self._stream_limit, self._queued_only = stream, stream_limit, queued_only
        self._redis_url, self._key_prefix = redis_url, key_prefix
        spill = None if spill_directory is None else Spill(Path(spill_directory), limit_bytes=spill_limit_bytes)
        limits = SenderLimits(
            queue_records=queue_records,
            queue_bytes=queue_bytes,
            gather_seconds=gather_seconds,
            exit_seconds=exit_seconds,
        )
        name = f"{type(self).__name__} ({stream})"
        self._sender = Sender(self._append, spill=spill, limits=limits, name=name, on_end=self._close_client)
        register(self._sender, f"log handler {stream}")
        _handlers.add(self)

    def handle(self, record: logging.LogRecord) -> bool:
        """As in `Handler`, but without records that would cause further records without end."""
        if threading.get_ident() == self._sender.thread_ident:
            # Not in `emit`: the thread must not wait for the lock, which `logging` holds while it waits for the thread.
            return False
        if is_in_sink.get() and str(record.name).startswith(_OWN):
            return False
        return logging.Handler.handle(self, record)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. Called by `logging`, by one thread at a time; it never raises."""
        if self._queued_only and not hasattr(record, "queue"):
            return
        try:
            body = encode_record(record)
            if len(body) > RECORD_LIMIT_BYTES:
                logger = printable(str(record.name), limit=100)
                self._sender.refuse(f"{len(body)} bytes of the logger {logger}, the limit is {RECORD_LIMIT_BYTES}")
            else:
                self._sender.put(body)
        except Exception:
            self.handleError(record)

    def flush(self, seconds: float | None = None) -> None:
        """
        Wait until all records logged so far are on the stream or in spill files.

        Args:
            seconds: The longest wait; `exit_seconds` by default.
        """
        self._sender.flush(seconds=seconds)

    def close(self) -> None:
        """Send or spill what is queued, within `exit_seconds`. Called by `logging` when the process ends."""
        self._sender.close()
        unregister(self._sender)
        super().close()

    def _append(self, guard: str, records: Sequence[bytes]) -> None:
        """
        Append a batch, in the thread of the sender.

        The settings are first read here: when Django makes the handler from LOGGING, they are not complete yet.
        """
        names = self._keys
        append_entries(
            self._client,
            names.stream(self._stream),
            names.stream_guard(self._stream, guard),
            [{RECORD_FIELD: record} for record in records],
            guard_seconds=GUARD_SECONDS,
            length_limit=self._stream_limit,
        )

    def _close_client(self) -> None:
        """In the thread of the sender, which alone uses it. Otherwise it stays open until garbage collection."""
        if "_client" in vars(self):
            self._client.close()

    @functools.cached_property
    def _client(self) -> redis.Redis:
        if self._redis_url is None:
            join_embedded_server()
        # The client does not retry: the sender does, and spills records in between.
        return clients.publisher(
            self._redis_url or get_settings().redis_url, timeout_seconds=TIMEOUT_SECONDS, retries=0
        )

    @functools.cached_property
    def _keys(self) -> Keys:
        return keys() if self._key_prefix is None else Keys(prefix=self._key_prefix)
