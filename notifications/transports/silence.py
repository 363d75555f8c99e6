"""
What has not answered lately is put aside.

Owns counting silences in a row, and for how long nobody asks again. Does not own what is asked (names, http).
"""

import time
from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["PutAside", "Silences"]

# The first time that something is put aside; each silence after it doubles the time, up to the limit.
ASIDE_SECONDS = 30.0
ASIDE_LIMIT_SECONDS = 1800.0
# What is remembered at most; the oldest is forgotten.
REMEMBERED_LIMIT = 10_000


class PutAside(OSError):
    """It is not asked now, because it has not answered lately."""


@dataclass(slots=True)
class _Silence:
    """How often something was silent in a row, and until when it is not asked, on the monotonic clock."""

    count: int = 0
    until: float = 0.0


class Silences:
    """
    Args:
        allowed: How many silences in a row change nothing: a busy server may be late once.

    Guarantees:
        An answer, of whatever kind, makes good for all silences before it.
    """

    def __init__(self, *, allowed: int) -> None:
        self._allowed = allowed
        self._silences: OrderedDict[str, _Silence] = OrderedDict()

    def check(self, key: str, what: str) -> None:
        """Raise PutAside if nobody is to ask now. `what` begins its text."""
        silence = self._silences.get(key)
        left_seconds = silence.until - time.monotonic() if silence else 0.0
        if silence and left_seconds > 0:
            raise PutAside(f"{what} did not answer {silence.count} times in a row: put aside for {left_seconds:.0f} s")

    def note_silence(self, key: str) -> None:
        """It did not answer in time."""
        silence = self._silences.setdefault(key, _Silence())
        self._silences.move_to_end(key)
        silence.count += 1
        extra = silence.count - self._allowed - 1
        if extra >= 0:
            silence.until = time.monotonic() + min(ASIDE_LIMIT_SECONDS, ASIDE_SECONDS * 2 ** min(extra, 16))
        if len(self._silences) > REMEMBERED_LIMIT:
            self._silences.popitem(last=False)

    def note_answer(self, key: str) -> None:
        """It did."""
        self._silences.pop(key, None)
