"""
`manage.py run_bot_subscriber`: sends notifications from the stream to browsers (relay) and by transports (bot).

Owns the command line, signals, and the end of the process. Does not own the parts (workers.service).
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import redis
from django.conf import settings
from django.core.management.base import CommandParser
from django.db import connections

from notifications import conf
from notifications.conf import PARTS
from notifications.management.errors import check_migrations
from notifications.transports import get_transports
from notifications.workers.service import Subscriber
from realtime.conf import join_embedded_server, keys, sync_redis
from realtime.development.part import is_checked, is_part, report_ready
from realtime.management.base import EscapingCommand
from realtime.management.streams import HelpFormatter, redis_errors
from realtime.management.watchdog import LoopWatchdog

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# After a signal, running work has this time to finish. With a bot, it is the time of the longest call of a provider
# plus RECORD_SECONDS, because an interrupted call would have to be repeated. No call begins in this time.
DEADLINE_SECONDS = 5.0
RECORD_SECONDS = 2.0
# The process is ended this long after the deadline, because a thread that hangs in a database driver cannot be ended.
EXIT_SECONDS = 3.0
# The TTL of the Redis key that reports a blocked event loop. The watchdog renews it while the loop is blocked.
STANDSTILL_SECONDS = 10
# After this many leases, other workers have taken over the work of a blocked loop: the process exits, so that its
# supervisor starts a new one.
STANDSTILL_LEASES = 2

HELP = """\
Sends the notifications on the Redis stream, until it gets SIGTERM or Ctrl-C.

  relay  publishes each notification on the topic user.<id>, and so to the user's browsers. One of
         all relays also listens on the Redis channel "notification", where any program may PUBLISH
         {"user_id": 42, "message": "..."}, and publishes events that a crash left in the outbox.
  bot    sends each notification by the transports that its user wants: email, webhook, ... They
         are listed in NOTIFICATIONS["TRANSPORTS"]. The default, the console, calls
         send_message(user_id, message), which prints a line.

Run any number of these processes, on any number of machines: they share the work, and another one
takes over the work of a process that died. Each notification is handled at least once. The command
waits for the end of outages of Redis and the database. It does not wait for missing tables: run
migrate first.

After SIGTERM or Ctrl-C it finishes running work, begins no call of a provider, and exits with 0. The
slowest running call decides how long that takes: at most its transport's timeout_seconds, or, if it
runs in a thread (email, chat), four fifths of NOTIFICATIONS["DELIVERY_CLAIM_SECONDS"], plus some
seconds.

If code that it calls blocks the event loop, the log and `python -m notifications.health bot` show
the place within seconds. SIGTERM then ends the process at once, with exit code 1. With DEBUG off,
the process ends by itself after two leases (NOTIFICATIONS["STREAM_LEASE_SECONDS"]), so that its
supervisor can start a new one.
"""


class Command(EscapingCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = HelpFormatter
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--only", choices=PARTS, help="run only this part, to scale the two separately")
        parser.add_argument(
            "--concurrency",
            type=_positive,
            metavar="N",
            help='the most messages sent at a time on each transport; by default NOTIFICATIONS["BOT_CONCURRENCY"]',
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        return super().execute(*args, **{**options, "skip_checks": options.get("skip_checks") or is_checked()})

    def handle(self, *args: Any, only: Any, concurrency: int | None, **options: Any) -> None:
        parts = (only,) if only else PARTS
        # Missing tables would look like an outage of the database, and the command would wait for ever.
        check_migrations()
        with redis_errors():
            # Not on the event loop, where it would be done otherwise.
            join_embedded_server()
        connections.close_all()
        stop = _Stop(_deadline_seconds(parts))
        for number in STOP_SIGNALS:
            # Not asyncio's signal handlers: they end with the loop, and a later signal would interrupt the shutdown.
            signal.signal(number, stop.on_signal)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(parts, concurrency, stop, self._say))
        if not is_part():
            logger.info("stopped: all running work is finished")
            self._say("stopped: all running work is finished")

    def _say(self, text: str) -> None:
        # In a project without LOGGING, only warnings are logged, and the command would seem to hang.
        if not logger.isEnabledFor(logging.INFO):
            self.stdout.write(f"run_bot_subscriber: {text}")
            self.stdout.flush()


class _Stop:
    """Handles signals, from the start of the process to its end."""

    def __init__(self, deadline_seconds: float) -> None:
        self.deadline_seconds = deadline_seconds
        self.is_asked = False
        self._stop: Callable[[], None] | None = None

    def attach(self, stop: Callable[[], None]) -> None:
        """From now on, a signal calls `stop`. If there was one already, call it at once."""
        self._stop = stop
        if self.is_asked:
            stop()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            return
        self.is_asked = True
        if not is_part():
            logger.info("%s: finishing running work", signal.Signals(number).name)
        watchdog = threading.Timer(self.deadline_seconds + EXIT_SECONDS, _exit_hard)
        watchdog.daemon = True
        watchdog.start()
        if self._stop is not None:
            self._stop()


class _Standstill:
    """Reports a blocked event loop to Redis, and finally ends the process. Called in the watchdog's thread."""

    def __init__(self, consumer: str, stop: _Stop) -> None:
        self._key = keys().standstill(consumer)
        self._redis = sync_redis()
        self._stop = stop
        self._limit_seconds = conf.get_settings().stream_lease_seconds * STANDSTILL_LEASES

    def __call__(self, where: str, seconds: float) -> None:
        # With a blocked loop, running work cannot finish, so there is nothing to wait for.
        if self._stop.is_asked:
            _exit_hard("a signal came while the event loop was blocked")
        # With DEBUG on, the loop may be blocked by a debugger.
        if seconds >= self._limit_seconds and not settings.DEBUG:
            _exit_hard(f"the event loop has been blocked for {seconds:.0f} s")
        with contextlib.suppress(redis.RedisError):
            self._redis.set(self._key, where, ex=STANDSTILL_SECONDS)


async def _run(parts: Any, concurrency: int | None, stop: _Stop, say: Callable[[str], None]) -> None:
    subscriber = Subscriber(parts=parts, bot_concurrency=concurrency)
    loop = asyncio.get_running_loop()

    def ask() -> None:
        loop.call_soon_threadsafe(lambda: subscriber.stop(deadline_seconds=stop.deadline_seconds))

    stop.attach(ask)
    ready = asyncio.create_task(_say_ready(subscriber, parts, say), name="say ready")
    try:
        async with LoopWatchdog(on_standstill=_Standstill(subscriber.consumer, stop)):
            await subscriber.run()
    finally:
        ready.cancel()


async def _say_ready(subscriber: Subscriber, parts: Sequence[str], say: Callable[[str], None]) -> None:
    await subscriber.ready.wait()
    if is_part():
        report_ready()
    else:
        say(f"{' and '.join(parts)} running; Ctrl-C or SIGTERM stops it")


def _deadline_seconds(parts: Sequence[str]) -> float:
    if "bot" not in parts:
        return DEADLINE_SECONDS
    calls = [transport.longest_call_seconds + RECORD_SECONDS for transport in get_transports().values()]
    return max(DEADLINE_SECONDS, *calls)


def _exit_hard(why: str = "not done in time after the signal") -> None:
    logger.error("%s: exiting at once; other workers will claim the unfinished entries", why)
    sys.stdout.flush()
    os._exit(1)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
