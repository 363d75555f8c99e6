"""
Text from outside, made fit for a log line, a page or a terminal: printable, on one line, bounded, encodable.

Owns what is let through, and how often a log repeats what anybody can cause. Does not own what counts as a secret.
"""

import io
import logging

from realtime.tokens import TokenBucket

__all__ = ["LimitedLog", "escape_unencodable", "printable"]

# Lines of one reason that are logged at once, and how many a second in the long run.
LINES_AT_ONCE = 5
LINES_PER_SECOND = 0.1


def printable(raw: str | bytes, *, limit: int) -> str:
    """
    Text from outside on one line, at most `limit` characters of it; "…" says that there is more.

    Whatever a terminal or a log reader would act on is escaped: control characters, line breaks, marks of direction,
    and bytes that are no UTF-8.
    """
    # One character has four bytes at most.
    text = raw[: 4 * limit + 4].decode(errors="backslashreplace") if isinstance(raw, bytes) else raw
    letters = (letter if letter.isprintable() else _escaped(letter) for letter in text[:limit])
    begin = "".join(letters)[:limit]
    return begin if len(text) <= limit else f"{begin}…"


def escape_unencodable(stream: object) -> None:
    """From now on, what the encoding of a text stream lacks is written to it as an escape; it was an error before."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


class LimitedLog:
    """
    Warnings that anybody outside can cause, a few of each reason and then one every ten seconds.

    Args:
        logger: Where they go.

    Attributes:
        left_out: Reason → how many were left out since the last line with this reason.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.left_out: dict[str, int] = {}
        self._logger = logger
        self._buckets: dict[str, TokenBucket] = {}

    def warning(self, reason: str, message: str, *arguments: object) -> None:
        """Log it, with how many of this reason were left out before, or leave it out and count it."""
        self._say(logging.WARNING, reason, message, arguments)

    def _say(
        self, level: int, reason: str, message: str, arguments: tuple[object, ...], error: BaseException | None = None
    ) -> None:
        bucket = self._buckets.get(reason)
        if bucket is None:
            bucket = self._buckets[reason] = TokenBucket(per_second=LINES_PER_SECOND, burst=LINES_AT_ONCE)
        if not bucket.take():
            self.left_out[reason] = self.left_out.get(reason, 0) + 1
            return
        if left_out := self.left_out.pop(reason, 0):
            message, arguments = f"{message} (and %d more since the last line)", (*arguments, left_out)
        self._logger.log(level, message, *arguments, exc_info=error)

    def exception(self, reason: str, error: BaseException, message: str, *arguments: object) -> None:
        """As `warning`, as an error with its traceback: of what the project supplies, and anybody can have called."""
        self._say(logging.ERROR, reason, message, arguments, error)

    def flush(self) -> None:
        """Log what was left out and not mentioned yet."""
        for reason, count in self.left_out.items():
            self._logger.warning("%d more: %s", count, reason)
        self.left_out.clear()
