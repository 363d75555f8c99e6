"""manage.py run_bot_subscriber: moves notifications from the stream to browsers (relay) and to transports (bot)."""

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
from realtime.management.base import EscapingCommand
from realtime.management.streams import HelpFormatter, redis_errors
from realtime.management.watchdog import LoopWatchdog

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# After a signal, what is in hand is given so long to finish; with a bot, as long as the longest call of a provider may
# take, and RECORD_SECONDS: a call that is cut off must be made again. None begins meanwhile.
DEADLINE_SECONDS = 5.0
RECORD_SECONDS = 2.0
# So long after that the process is gone: a thread that hangs in a database driver cannot be ended otherwise.
EXIT_SECONDS = 3.0
# The TTL of the Redis key that reports a blocked event loop. The watchdog renews it while the loop is blocked.
STANDSTILL_SECONDS = 10
# After this many leases, other workers have taken over the work of a blocked loop: the process exits, so that its
# supervisor starts a new one.
STANDSTILL_LEASES = 2

HELP = """\
Moves notifications on from the Redis stream, until it is told to stop.

  relay  publishes each one to the channel-layer group user.<id>, and so to the user's browsers.
         One among all relays also listens on the Redis channel "notification", where any program
         may PUBLISH {"user_id": 42, "message": "..."}, and publishes what a crash left in the outbox.
  bot    delivers each one by the transports that its user wants: email, webhook, ...;
         NOTIFICATIONS["TRANSPORTS"] names them. The default, the console, calls
         send_message(user_id, message), which prints a line.

Run as many of these processes as you like, on as many machines: they share the work, and what one
of them held when it died is done by another. Each notification is handled at least once. Redis or
the database being away is waited for; a database without our tables is not: run migrate first.
SIGTERM and Ctrl-C finish what is in hand, begin no further call of a provider and exit with 0: as
soon as the slowest call under way has ended, which is within its transport's timeout_seconds, or
where it is made in a thread (email, chat) within four fifths of
NOTIFICATIONS["DELIVERY_CLAIM_SECONDS"], and some seconds.

If code that is called here blocks the event loop, the log and project.health say within seconds
where. SIGTERM then ends the process at once, with exit code 1. Without DEBUG the process ends by
itself after two leases (NOTIFICATIONS["STREAM_LEASE_SECONDS"]), so that its supervisor can start a
new one.
"""


class Command(EscapingCommand):
    help = HELP

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.formatter_class = HelpFormatter
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--only", choices=PARTS, help="run this part alone, to scale the two separately")
        parser.add_argument(
            "--concurrency",
            type=_positive,
            metavar="N",
            help='the most messages sent at a time on each transport; by default NOTIFICATIONS["BOT_CONCURRENCY"]',
        )

    def handle(self, *args: Any, only: Any, concurrency: int | None, **options: Any) -> None:
        parts = (only,) if only else PARTS
        # Tables that are not there would look like a database that is away, and be waited for.
        check_migrations()
        with redis_errors():
            # Not on the event loop, where it would be done otherwise.
            join_embedded_server()
        connections.close_all()
        stop = _Stop(_deadline_seconds(parts))
        for number in STOP_SIGNALS:
            # Not asyncio's handlers, which end with the loop: until the process is gone a signal must not break it.
            signal.signal(number, stop.on_signal)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(parts, concurrency, stop, self._say))
        logger.info("stopped: what was in hand is done")
        self._say("stopped: what was in hand is done")

    def _say(self, text: str) -> None:
        # In a project without LOGGING the log has warnings only, and this would seem to hang. Once is enough.
        if not logger.isEnabledFor(logging.INFO):
            self.stdout.write(f"run_bot_subscriber: {text}")
            self.stdout.flush()


class _Stop:
    """What a signal does, from the first moment of the process to its last."""

    def __init__(self, deadline_seconds: float) -> None:
        self.deadline_seconds = deadline_seconds
        self.is_asked = False
        self._stop: Callable[[], None] | None = None

    def attach(self, stop: Callable[[], None]) -> None:
        """From now on a signal calls `stop`; at once if one has come already."""
        self._stop = stop
        if self.is_asked:
            stop()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            return
        self.is_asked = True
        logger.info("%s: finishing what is in hand", signal.Signals(number).name)
        watchdog = threading.Timer(self.deadline_seconds + EXIT_SECONDS, _exit_hard)
        watchdog.daemon = True
        watchdog.start()
        if self._stop is not None:
            self._stop()


class _Standstill:
    """Reports a blocked event loop to Redis, and ends the process in the end; called in the watchdog's thread."""

    def __init__(self, consumer: str, stop: _Stop) -> None:
        self._key = keys().standstill(consumer)
        self._redis = sync_redis()
        self._stop = stop
        self._limit_seconds = conf.get_settings().stream_lease_seconds * STANDSTILL_LEASES

    def __call__(self, where: str, seconds: float) -> None:
        # The work in progress cannot be finished: there is nothing to wait for.
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
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)
