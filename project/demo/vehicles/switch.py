"""
The switch of the simulation: at most one runs at a time, and it can be stopped from anywhere.

Owns the lease in Redis, and starting the command as a child of a web process. Does not own the simulation.

The child ends by itself when it is stopped, when its web process has ended, or when no page has shown the map for
WATCHED_SECONDS.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from realtime import conf
from realtime.redis.outage import REDIS_ERRORS

__all__ = ["AlreadyRunning", "Lease", "Switch", "hold_lease"]

LEASE_SECONDS = 6
RENEW_SECONDS = 1.0
WATCHED_SECONDS = 180
# How long removing the vehicles may take before another simulation may start.
STOP_SECONDS = 20


class AlreadyRunning(Exception):
    """Another process moves the vehicles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """The state of the switch, and its two keys. Both expire."""

    lease_key: str
    watched_key: str

    @classmethod
    def of_the_project(cls) -> "Switch":
        """The switch whose keys have this project's prefix."""
        prefix = f"{conf.keys().prefix}demo:{{simulation}}"
        return cls(lease_key=f"{prefix}:lease", watched_key=f"{prefix}:watched")

    def state(self) -> dict[str, Any] | None:
        """The running simulation's `about`, with `is_stopping`; None if none is running."""
        held = self._held()
        return None if held is None else {**held["about"], "is_stopping": held["is_stopping"]}

    def watch(self) -> None:
        """Record that a page shows the map."""
        conf.sync_redis().set(self.watched_key, 1, ex=WATCHED_SECONDS)

    def start(self, *arguments: str) -> None:
        """Start the command, unless a simulation is running. If two do so at once, one of the two commands ends."""
        self.watch()
        if self.state() is not None:
            return
        subprocess.Popen(  # noqa: S603 - our own command
            [
                sys.executable,
                str(settings.BASE_DIR / "manage.py"),
                "simulate_vehicles",
                "--started-by-page",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Ctrl-C must not reach it before the web server has stopped.
            start_new_session=True,
        )

    def stop(self) -> None:
        """The running simulation removes its vehicles and ends, within seconds."""
        held = self._held()
        if held is not None:
            value = json.dumps({**held, "is_stopping": True})
            conf.sync_redis().set(self.lease_key, value, xx=True, ex=STOP_SECONDS)

    def _held(self) -> dict[str, Any] | None:
        value = conf.sync_redis().get(self.lease_key)
        return None if value is None else dict(json.loads(value))


class Lease:
    """
    The right to move the vehicles, held by one process.

    Args:
        is_watched_only: Whether to give it up when no page shows the map, or when the parent process has ended.
    """

    def __init__(self, switch: Switch, value: str, *, is_watched_only: bool) -> None:
        self._switch, self._value = switch, value
        self._parent_pid = os.getppid() if is_watched_only else None
        self._renewed_at = time.monotonic()
        # Why it has been lost: "stopped", "parent" or "unwatched".
        self.lost_by: str | None = None

    def is_lost(self) -> bool:
        """May be called many times a second: it calls Redis once a second."""
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            self.lost_by = "parent"
        elif self.lost_by is None and time.monotonic() - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = time.monotonic()
            with contextlib.suppress(*REDIS_ERRORS):
                self._renew()
        return self.lost_by is not None

    def _renew(self) -> None:
        client, key = conf.sync_redis(), self._switch.lease_key
        held, is_watched = client.mget(key, self._switch.watched_key)
        if held is None:
            # It has expired, while this machine was asleep.
            held = self._value.encode() if client.set(key, self._value, nx=True, ex=LEASE_SECONDS) else b""
        if held.decode() != self._value:
            self.lost_by = "stopped"
        elif self._parent_pid is not None and not is_watched:
            self.lost_by = "unwatched"
        else:
            client.expire(key, LEASE_SECONDS)


@contextlib.contextmanager
def hold_lease(about: dict[str, Any], *, is_watched_only: bool) -> Iterator[Lease]:
    """
    Hold the lease of the simulation while the block runs.

    Raises:
        AlreadyRunning: Another process holds it.
    """
    switch = Switch.of_the_project()
    token = secrets.token_hex(8)
    value = json.dumps({"token": token, "about": about, "is_stopping": False})
    if not conf.sync_redis().set(switch.lease_key, value, nx=True, ex=LEASE_SECONDS):
        raise AlreadyRunning
    lease = Lease(switch, value, is_watched_only=is_watched_only)
    try:
        yield lease
    finally:
        with contextlib.suppress(*REDIS_ERRORS):
            held = conf.sync_redis().get(switch.lease_key)
            if held is not None and json.loads(held)["token"] == token:
                conf.sync_redis().delete(switch.lease_key)
