"""
Pings all sockets of an event loop with one timer.

Owns when a socket is pinged and when it is given up. Does not own the frames that are sent (connection).
"""

import asyncio
import random
from typing import Protocol

__all__ = ["Keepalive", "Pinged", "Turn"]


class Pinged(Protocol):
    """A socket, as the keepalive sees it."""

    def ping(self) -> None:
        """Send a ping."""

    def give_up_if_silent(self) -> None:
        """Close the socket if nothing has arrived since `ping`."""


type Turn = set[Pinged]


class Keepalive:
    """
    Pings each socket once per interval, and checks it again after the timeout.

    The interval is divided into turns. Each socket gets a random turn, so that the sockets of a reconnect storm are not
    all pinged at once.

    Args:
        interval_seconds: The time between two pings of a socket.
        timeout_seconds: How long a socket may be silent after a ping, rounded to a turn; None for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_seconds: float, timeout_seconds: float | None) -> None:
        self._loop = loop
        # A turn is at most a second and at most a quarter of the timeout, so that both times are kept approximately.
        longest_seconds = min(1.0, interval_seconds, (timeout_seconds or interval_seconds) / 4)
        turn_count = max(1, round(interval_seconds / longest_seconds))
        self._turn_seconds = interval_seconds / turn_count
        self._turns: list[Turn] = [set() for _ in range(turn_count)]
        # How many turns after its ping a socket is checked. Never in the turn of its next ping, which would come first.
        self._patience = None if timeout_seconds is None else max(1, round(timeout_seconds / self._turn_seconds))
        self._now = 0
        # None while there are no sockets.
        self._timer: asyncio.TimerHandle | None = None

    def add(self, socket: Pinged) -> Turn:
        """Begin to ping a socket. Pass the returned turn to `leave`."""
        turn = random.choice(self._turns)  # noqa: S311 - spreads load
        turn.add(socket)
        if self._timer is None:
            self._timer = self._loop.call_later(self._turn_seconds, self._take_turn)
        return turn

    def leave(self, socket: Pinged, turn: Turn) -> None:
        """Stop pinging a socket."""
        turn.discard(socket)
        if self._timer is not None and not turn and not any(self._turns):
            self._timer.cancel()
            self._timer = None

    def _take_turn(self) -> None:
        self._timer = self._loop.call_later(self._turn_seconds, self._take_turn)
        if self._patience is not None and self._patience < len(self._turns):
            self._check(self._turns[(self._now - self._patience) % len(self._turns)])
        elif self._patience is not None:
            # The timeout is not shorter than the interval: a socket that was silent for a whole round is dead.
            self._check(self._turns[self._now])
        for socket in tuple(self._turns[self._now]):
            socket.ping()
        self._now = (self._now + 1) % len(self._turns)

    @staticmethod
    def _check(turn: Turn) -> None:
        for socket in tuple(turn):
            socket.give_up_if_silent()
