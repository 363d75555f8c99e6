"""
A circuit breaker for servers of users: after timeouts, a server is not called for a while.

Owns counting timeouts in a row, and how long a server is put aside. Does not own the calls (names, http).
"""

import time
from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["PutAside", "Silences"]

# How long a server is put aside at first. Each further timeout doubles this, up to the limit.
ASIDE_SECONDS = 30.0
ASIDE_LIMIT_SECONDS = 1800.0
# The most servers that are remembered; the one whose last timeout is oldest is forgotten first.
REMEMBERED_LIMIT = 10_000


class PutAside(OSError):
    """The server is not called now, because it did not answer recently."""


@dataclass(slots=True)
class _Silence:
    """The timeouts of one server."""

    # How many there were in a row.
    count: int = 0
    # Until when the server is put aside, by the monotonic clock.
    until: float = 0.0


class Silences:
    """
    The timeouts of all servers, each by a key of the caller's choice.

    Args:
        allowed: How many timeouts in a row have no consequence, because a busy server may be late at times.

    Guarantees:
        Any answer resets the count of its server.
    """

    def __init__(self, *, allowed: int) -> None:
        self._allowed = allowed
        self._silences: OrderedDict[str, _Silence] = OrderedDict()

    def check(self, key: str, what: str) -> None:
        """Raise PutAside if the server is put aside now. `what` is its name in the text of the exception."""
        silence = self._silences.get(key)
        left_seconds = silence.until - time.monotonic() if silence else 0.0
        if silence and left_seconds > 0:
            raise PutAside(f"{what} did not answer {silence.count} times in a row: paused for {left_seconds:.0f} s")

    def note_silence(self, key: str) -> None:
        """The server did not answer in time."""
        silence = self._silences.setdefault(key, _Silence())
        self._silences.move_to_end(key)
        silence.count += 1
        extra = silence.count - self._allowed - 1
        if extra >= 0:
            silence.until = time.monotonic() + min(ASIDE_LIMIT_SECONDS, ASIDE_SECONDS * 2 ** min(extra, 16))
        if len(self._silences) > REMEMBERED_LIMIT:
            self._silences.popitem(last=False)

    def note_answer(self, key: str) -> None:
        """The server answered."""
        self._silences.pop(key, None)
