"""
The webhook receiver of a site under fault: it counts by effect key, and can be made to fail.

Owns what was taken and how it was answered. A delivery is taken when it is answered with 200; its effect key is the
header webhook-id, and a provider that keeps the keys does the work once for each.
"""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from tests.support.receivers import HttpReceiver, Reply, Request

__all__ = ["Receiver"]

GATE_SECONDS = 30.0


class Receiver:
    """`with Receiver() as receiver`: a webhook receiver on a port that stays the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Effect key → how often it was taken.
        self._taken: Counter[str] = Counter()
        # Notification id → effect keys under which it was taken.
        self._effects: dict[int, set[str]] = {}
        # What it does now.
        self._status = 200
        self._delay_seconds = 0.0
        # Notifications that it will never take.
        self._is_refused_for_good = lambda notification_id: False
        # Set while nobody is held; and how many were held so far.
        self._gate = threading.Event()
        self._gate.set()
        self.held_count = 0
        self._server = HttpReceiver()
        self._server.reply = self._answer
        self.port = self._server.port
        self.url = self._server.url

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.set()
        self._server.stop()

    @property
    def request_count(self) -> int:
        """All that came, taken or not."""
        return len(self._server.requests)

    @property
    def taken(self) -> Counter[str]:
        """How often each effect key was taken."""
        with self._lock:
            return Counter(self._taken)

    @property
    def effects(self) -> dict[int, set[str]]:
        """The effect keys under which each notification was taken."""
        with self._lock:
            return {number: set(keys) for number, keys in self._effects.items()}

    @contextlib.contextmanager
    def failing(self, *, status: int = 200, delay_seconds: float = 0.0) -> Iterator[None]:
        """Within it, each request is answered so, and so late."""
        self._status, self._delay_seconds = status, delay_seconds
        try:
            yield
        finally:
            self._status, self._delay_seconds = 200, 0.0

    @contextlib.contextmanager
    def refusing_every(self, count: int) -> Iterator[None]:
        """Within it, one notification in `count` is answered with 400, which no attempt can change."""
        self._is_refused_for_good = lambda notification_id: notification_id % count == 0
        try:
            yield
        finally:
            self._is_refused_for_good = lambda notification_id: False

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Within it, connections are refused."""
        self._server.stop()
        try:
            yield
        finally:
            requests = self._server.requests
            self._server = HttpReceiver(self.port)
            self._server.requests = requests
            self._server.reply = self._answer
            self._server.start()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Within it, requests have been read and get no answer."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def _answer(self, request: Request) -> Reply:
        if len(request.body) < int(request.headers["content-length"]):
            # Who asked died in the midst of it.
            return Reply(status=400)
        key = request.headers["webhook-id"]
        notification_id = json.loads(request.body)["data"]["id"]
        status = 400 if self._is_refused_for_good(notification_id) else self._status
        if not self._gate.is_set():
            self.held_count += 1
            self._gate.wait(GATE_SECONDS)
        time.sleep(self._delay_seconds)
        if status == 200:
            with self._lock:
                self._taken[key] += 1
                self._effects.setdefault(notification_id, set()).add(key)
        return Reply(status=status)
