"""
Pushes what this process counts to Redis, once a second, from a thread of its own.

Owns the thread, what was pushed and what was not yet, and that nothing is added twice. Does not own counting (counting,
parts) nor reading what was pushed (stored). It gets its Redis client and settings from the edge (`install`).
"""

import atexit
import contextlib
import itertools
import logging
import os
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
import redis

from realtime.process_name import process_name
from realtime.redis.keys import Keys
from realtime.redis.outage import REDIS_ERRORS
from realtime.redis.scripts import Script
from realtime.statistics.counting import on_use
from realtime.statistics.fields import read_process

__all__ = ["HOUR_KEPT_SECONDS", "HOUR_SECONDS", "MINUTE_SECONDS", "About", "Pusher", "install", "set_role", "stop"]

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
# A process in which nothing happens says that it is alive this often.
IDLE_SECONDS = 4.0
MINUTE_SECONDS, HOUR_SECONDS = 60, 3600
# How long Redis keeps them. The relay copies hours to the database.
MINUTE_KEPT_SECONDS, HOUR_KEPT_SECONDS = 2 * 3600, 3 * 86_400
# How long Redis keeps the id of a process, what it says about itself and the number of its last push. The last two are
# kept shorter once it has ended.
PROCESS_KEPT_SECONDS, ENDED_KEPT_SECONDS = 86_400, 3600
# The most minutes that wait while Redis is unavailable. What is older is added to the oldest of these.
MINUTES_LIMIT = 90
# How long the end of the process waits for the last push.
STOP_SECONDS = 2.0

_push = Script("push_statistics", answer=int)


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says about itself."""

    # host:pid
    name: str
    role: str
    # Seconds since the epoch.
    started_at: Annotated[float, msgspec.Meta(ge=0, lt=1e11)]
    # False once it has said that it ends.
    is_alive: bool
    # Its metrics of the kind "now": field → number.
    now: dict[str, int]


class _Batch(NamedTuple):
    """What one push adds. It is sent again, with the same number, until Redis has confirmed it."""

    number: int
    # Minute since the epoch → field → increment.
    minutes: dict[int, Counter[str]]


class Pusher:
    """
    What one process has pushed, and what it has not.

    Args:
        connect: Returns the client and the keys; called for each push.
        role: Returns what this process is; called for each push.
        read: Returns the totals of this process and its present state, by field.
        clock: Seconds since the epoch.
        known: Totals that are never pushed, because this process inherited them from its parent.

    Guarantees:
        Each increment is added once, also if the answer to a push is lost. While Redis is unavailable, increments wait,
        each for its own minute. Only what was counted since the last push is lost if the process is killed.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[redis.Redis, Keys]],
        *,
        role: Callable[[], str],
        read: Callable[[], tuple[Counter[str], dict[str, int]]] = read_process,
        clock: Callable[[], float] = time.time,
        known: Counter[str] | None = None,
    ) -> None:
        self.id = f"{process_name()}:{secrets.token_hex(4)}"
        self._connect, self._role, self._read, self._clock = connect, role, read, clock
        self._started_at = clock()
        # The totals up to the last push.
        self._known: Counter[str] = known or Counter()
        # What was counted since the last batch was made.
        self._waiting: dict[int, Counter[str]] = {}
        # The batch that Redis has not confirmed.
        self._batch: _Batch | None = None
        self._number = 0
        self._pushed_at = 0.0
        self._pushed_state: dict[str, int] | None = None
        self._has_failed = False

    def push(self, *, is_last: bool = False) -> bool:
        """
        Push what was counted since the last call.

        Args:
            is_last: Whether the process ends: it then no longer counts as alive.

        Returns:
            Whether Redis has everything now. False if it is unavailable; the next call tries again.
        """
        totals, now = self._read()
        self._gather(totals)
        # Negative if the clock went back: then it is due too.
        is_recent = 0 <= self._clock() - self._pushed_at < IDLE_SECONDS
        is_due = is_last or now != self._pushed_state or not is_recent
        if self._batch is None and (self._waiting or is_due):
            self._number += 1
            self._batch, self._waiting = _Batch(self._number, self._waiting), {}
        if self._batch is not None:
            try:
                self._send(self._batch, now, is_last=is_last)
            except REDIS_ERRORS as error:
                if not self._has_failed:
                    logger.info("statistics wait until Redis is available (%s: %s)", type(error).__name__, error)
                self._has_failed = True
                return False
            self._batch, self._has_failed = None, False
            self._pushed_at, self._pushed_state = self._clock(), now
        if is_last and self._waiting:
            # What waited behind an unconfirmed batch.
            return self.push(is_last=True)
        return not self._waiting

    def _gather(self, totals: Counter[str]) -> None:
        counts = Counter({field: count - self._known[field] for field, count in totals.items()})
        # Only increases: a total falls when a part is dropped without `unregister()`.
        counts, self._known = +counts, totals
        if not counts:
            return
        minute = int(self._clock() // MINUTE_SECONDS)
        if minute not in self._waiting and len(self._waiting) >= MINUTES_LIMIT:
            first, second, *_ = sorted(self._waiting)
            self._waiting[second].update(self._waiting.pop(first))
        self._waiting.setdefault(minute, Counter()).update(counts)

    def _send(self, batch: _Batch, now: dict[str, int], *, is_last: bool) -> None:
        client, keys = self._connect()
        hours: dict[int, Counter[str]] = {}
        for minute, counts in batch.minutes.items():
            hours.setdefault(minute * MINUTE_SECONDS // HOUR_SECONDS, Counter()).update(counts)
        about = About(
            name=process_name(), role=self._role(), started_at=self._started_at, is_alive=not is_last, now=now
        )
        kept_seconds = ENDED_KEPT_SECONDS if is_last else PROCESS_KEPT_SECONDS
        names = [keys.statistics_process(self.id), keys.statistics_processes()]
        arguments: list[Any] = [
            *(self.id, batch.number, msgspec.json.encode(about), kept_seconds * 1000),
            *(PROCESS_KEPT_SECONDS * 1000, secrets.token_hex(5)),
        ]
        for periods, name_of, kept in (
            (batch.minutes, keys.statistics_minute, MINUTE_KEPT_SECONDS),
            (hours, keys.statistics_hour, HOUR_KEPT_SECONDS),
        ):
            for number, counts in periods.items():
                names.append(name_of(number))
                arguments += [kept * 1000, len(counts), *itertools.chain.from_iterable(counts.items())]
        _push.run(client, names, arguments)


# The thread of this process ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _State:
    connect: Callable[[], tuple[redis.Redis, Keys]] | None = None
    is_enabled: Callable[[], bool] = bool
    role: str = ""
    thread: threading.Thread | None = None
    ending: threading.Event | None = None
    # What the parts had counted in the parent when this process was forked.
    inherited: Counter[str] | None = None


_state = _State()
_starting = threading.Lock()


def install(connect: Callable[[], tuple[redis.Redis, Keys]], *, is_enabled: Callable[[], bool], role: str) -> None:
    """
    Start pushing as soon as this process counts something, or registers a part with `starts_pushing`.

    Args:
        is_enabled: Asked then, until it is true.
        role: What this process is; `set_role` may change it.
    """
    is_first = _state.connect is None
    _state.connect, _state.is_enabled, _state.role = connect, is_enabled, role
    if is_first:
        on_use(_start)
        atexit.register(stop)


def set_role(role: str) -> None:
    """Say what this process is, for example "relay and bot"."""
    _state.role = role


def stop() -> None:
    """Push what is left, and end the thread. Called when the process ends. Idempotent."""
    thread, ending = _state.thread, _state.ending
    if thread is not None and ending is not None and thread.is_alive():
        ending.set()
        thread.join(STOP_SECONDS)


def _start() -> None:
    if _state.thread is not None or _state.connect is None:
        return
    with _starting:
        if _state.thread is not None or not _state.is_enabled():
            return
        pusher = Pusher(_state.connect, role=lambda: _state.role, known=_state.inherited)
        ending = threading.Event()
        thread = threading.Thread(target=_run, args=(pusher, ending), name="signalbox statistics", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # The process has too many threads, or ends. The next thread that counts tries again.
            failure = error
        else:
            _state.thread, _state.ending = thread, ending
            _stop_with_child()
            return
    # Not under the lock: a log handler may count.
    logger.warning("statistics of this process are not pushed yet (%s)", failure)


def _stop_with_child() -> None:
    """In a process of multiprocessing: it ends without atexit, but calls finalizers of its own."""
    module = sys.modules.get("multiprocessing.process")
    if module is not None and module.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, stop, exitpriority=0)


def _run(pusher: Pusher, ending: threading.Event) -> None:
    is_logged = False
    while not ending.wait(INTERVAL_SECONDS):
        try:
            pusher.push()
        except Exception:
            if not is_logged:
                logger.exception("pushing statistics failed: it is tried again every %s s", INTERVAL_SECONDS)
            is_logged = True
    with contextlib.suppress(Exception):
        pusher.push(is_last=True)


def _forget_parent() -> None:
    """In a forked process: its thread is gone, and another one starts with the next use."""
    global _starting
    _starting = threading.Lock()
    _state.thread = _state.ending = None
    _state.inherited = read_process()[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
