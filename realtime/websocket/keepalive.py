"""
Pings for all sockets of an event loop by one timer.

Owns when a socket is asked for a sign of life and when it is given up; what that means on the wire is the socket's.
"""

import asyncio
import random
from typing import Protocol

__all__ = ["Keepalive", "Pinged", "Turn"]


class Pinged(Protocol):
    """What is kept alive."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def give_up_if_silent(self) -> None:
        """Nothing may have come since `ping`: then it is dead."""


type Turn = set[Pinged]


class Keepalive:
    """
    Takes turns; each socket is pinged once an interval and looked at again after the timeout.

    Sockets are dealt out by chance, so that the first ping comes at a random moment and those of a reconnect storm do
    not stay together.

    Args:
        interval_seconds: Between two pings of a socket.
        timeout_seconds: How long it may be silent after a ping, rounded to a turn; None: for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_seconds: float, timeout_seconds: float | None) -> None:
        self._loop = loop
        # A turn is at most a second and at most a quarter of the timeout, so that both times are about kept.
        longest_seconds = min(1.0, interval_seconds, (timeout_seconds or interval_seconds) / 4)
        turn_count = max(1, round(interval_seconds / longest_seconds))
        self._turn_seconds = interval_seconds / turn_count
        self._turns: list[Turn] = [set() for _ in range(turn_count)]
        # How many turns after its ping a socket is looked at. Never at its next ping: that would ask anew first.
        self._patience = None if timeout_seconds is None else max(1, round(timeout_seconds / self._turn_seconds))
        self._now = 0
        # None while there is nobody to ping.
        self._timer: asyncio.TimerHandle | None = None

    def add(self, socket: Pinged) -> Turn:
        """Keep `socket` alive; it leaves by `leave` with what this returned."""
        turn = random.choice(self._turns)  # noqa: S311 - spreads load
        turn.add(socket)
        if self._timer is None:
            self._timer = self._loop.call_later(self._turn_seconds, self._take_turn)
        return turn

    def leave(self, socket: Pinged, turn: Turn) -> None:
        """Leave it alone."""
        turn.discard(socket)
        if self._timer is not None and not turn and not any(self._turns):
            self._timer.cancel()
            self._timer = None

    def _take_turn(self) -> None:
        self._timer = self._loop.call_later(self._turn_seconds, self._take_turn)
        if self._patience is not None and self._patience < len(self._turns):
            self._look_at(self._turns[(self._now - self._patience) % len(self._turns)])
        elif self._patience is not None:
            # A timeout as long as the interval or longer: whoever was silent for a whole round is dead.
            self._look_at(self._turns[self._now])
        for socket in tuple(self._turns[self._now]):
            socket.ping()
        self._now = (self._now + 1) % len(self._turns)

    @staticmethod
    def _look_at(turn: Turn) -> None:
        for socket in tuple(turn):
            socket.give_up_if_silent()
