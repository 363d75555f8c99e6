"""
Runs a service in the process of a management command, from its start to the signal that ends it.

Owns signals, the watchdog of the event loop, and the end of the process. Does not own the service (each command).
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import redis
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import connections

from realtime.conf import join_embedded_server, keys, sync_redis
from realtime.development.part import is_checked, is_part, report_ready
from realtime.management.base import EscapingCommand
from realtime.management.streams import redis_errors
from realtime.management.watchdog import LoopWatchdog

__all__ = ["Service", "ServiceCommand"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The process is ended this long after the deadline, because a thread that hangs in a database driver cannot be ended.
EXIT_SECONDS = 3.0
# The TTL of the Redis key that reports a blocked event loop. The watchdog renews it while the loop is blocked.
STANDSTILL_SECONDS = 10
# After this many leases, other workers have taken over the work of a blocked loop: the process exits, so that its
# supervisor starts a new one.
STANDSTILL_LEASES = 2


class Service(Protocol):
    """What a process runs until it is stopped."""

    # The name of the process as a worker.
    consumer: str
    # Set when it has started.
    ready: asyncio.Event

    async def run(self) -> None:
        """Work until `stop`."""

    def stop(self, *, deadline_seconds: float) -> None:
        """End `run()` within the deadline. Idempotent."""


class ServiceCommand(EscapingCommand):
    """
    A command that runs a service until SIGTERM or Ctrl-C.

    If code that the service calls blocks the event loop, the log and a key in Redis show the place. A signal then ends
    the process at once, with exit code 1. With DEBUG off, it ends by itself after two leases.
    """

    def execute(self, *args: Any, **options: Any) -> str | None:
        return super().execute(*args, **{**options, "skip_checks": options.get("skip_checks") or is_checked()})

    def run_service(
        self,
        make: Callable[[], Service],
        *,
        running: str,
        deadline_seconds: float,
        lease_seconds: float,
        may_be_broken_off: bool = False,
    ) -> None:
        """
        Run a service until a signal.

        Args:
            make: Makes the service. Called on the event loop.
            running: What the service runs, for the line that says that it is ready: "relay and bot".
            deadline_seconds: After a signal, running work has this time to finish.
            lease_seconds: After this time, other workers take over the work of a process whose loop is blocked.
            may_be_broken_off: Whether a Ctrl-C after another signal ends the process at once: work that is begun again
                has no effect twice.

        Raises:
            CommandError: The service raised ImproperlyConfigured: it cannot run as it is configured.
        """
        logger = logging.getLogger(type(self).__module__)
        with redis_errors():
            # This blocks. The first client would do it on the event loop.
            join_embedded_server()
        connections.close_all()
        stop = _Stop(deadline_seconds, logger, may_be_broken_off=may_be_broken_off)
        for number in STOP_SIGNALS:
            # Not asyncio's signal handlers: they end with the loop, and a later signal would interrupt the shutdown.
            signal.signal(number, stop.on_signal)
        ready = f"{running} running; Ctrl-C or SIGTERM stops it"
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(_run(make, stop, lease_seconds, lambda: self.say(ready)))
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if not is_part():
            logger.info("stopped: running work is finished, or left to other workers")
            self.say("stopped: running work is finished, or left to other workers")

    def say(self, text: str) -> None:
        """Print a line, if the log would not show it: without LOGGING in the project, only warnings are logged."""
        module = type(self).__module__
        if not logging.getLogger(module).isEnabledFor(logging.INFO):
            self.stdout.write(f"{module.rpartition('.')[2]}: {text}")
            self.stdout.flush()


class _Stop:
    """Handles signals, from the start of the process to its end."""

    def __init__(self, deadline_seconds: float, logger: logging.Logger, *, may_be_broken_off: bool) -> None:
        self.deadline_seconds = deadline_seconds
        self.may_be_broken_off = may_be_broken_off
        self.logger = logger
        self.is_asked = False
        self._stop: Callable[[], None] | None = None

    def attach(self, stop: Callable[[], None]) -> None:
        """Let a signal call `stop`. If one has come already, call it now."""
        self._stop = stop
        if self.is_asked:
            stop()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            # Not by SIGTERM: a supervisor in the same terminal sends it too.
            if self.may_be_broken_off and number == signal.SIGINT:
                self.exit_hard("a second Ctrl-C")
            return
        self.is_asked = True
        if not is_part():
            self.logger.info("%s: finishing running work", signal.Signals(number).name)
        watchdog = threading.Timer(self.deadline_seconds + EXIT_SECONDS, self.exit_hard)
        watchdog.daemon = True
        watchdog.start()
        if self._stop is not None:
            self._stop()

    def exit_hard(self, why: str = "not done in time after the signal") -> None:
        self.logger.error("%s: exiting at once; other workers will claim the unfinished entries", why)
        sys.stdout.flush()
        os._exit(1)


class _Standstill:
    """Reports a blocked event loop to Redis, and finally ends the process. Called in the watchdog's thread."""

    def __init__(self, consumer: str, stop: _Stop, lease_seconds: float) -> None:
        self._key = keys().standstill(consumer)
        self._redis = sync_redis()
        self._stop = stop
        self._limit_seconds = lease_seconds * STANDSTILL_LEASES

    def __call__(self, where: str, seconds: float) -> None:
        # With a blocked loop, running work cannot finish, so there is nothing to wait for.
        if self._stop.is_asked:
            self._stop.exit_hard("a signal came while the event loop was blocked")
        # With DEBUG on, the loop may be blocked by a debugger.
        if seconds >= self._limit_seconds and not settings.DEBUG:
            self._stop.exit_hard(f"the event loop has been blocked for {seconds:.0f} s")
        with contextlib.suppress(redis.RedisError):
            self._redis.set(self._key, where, ex=STANDSTILL_SECONDS)


async def _run(make: Callable[[], Service], stop: _Stop, lease_seconds: float, say_ready: Callable[[], None]) -> None:
    service = make()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        loop.call_soon_threadsafe(lambda: service.stop(deadline_seconds=stop.deadline_seconds))

    stop.attach(ask)
    ready = asyncio.create_task(_report_ready(service, say_ready), name="say ready")
    try:
        async with LoopWatchdog(on_standstill=_Standstill(service.consumer, stop, lease_seconds)):
            await service.run()
    finally:
        ready.cancel()


async def _report_ready(service: Service, say_ready: Callable[[], None]) -> None:
    await service.ready.wait()
    if is_part():
        report_ready()
    else:
        say_ready()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
