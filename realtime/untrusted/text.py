"""
Makes untrusted text safe for a log line, a page or a terminal: printable, on one line, bounded, encodable.

Owns the escaping, and the rate limit of log lines that anybody outside can cause. Does not own hiding secrets
(masking).
"""

import io
import logging

from realtime.untrusted.rate_limit import TokenBucket

__all__ = ["LimitedLog", "escape_unencodable", "printable"]

# For each reason: how many lines may be logged in a burst, and how many per second in the long run.
LINES_AT_ONCE = 5
LINES_PER_SECOND = 0.1


def printable(raw: str | bytes, *, limit: int) -> str:
    """
    At most `limit` characters of untrusted text, on one line; "…" follows if there is more.

    Everything that a terminal or a log reader would interpret is escaped: control characters, line breaks, direction
    marks, and bytes that are not UTF-8.
    """
    # A character has at most four bytes.
    text = raw[: 4 * limit + 4].decode(errors="backslashreplace") if isinstance(raw, bytes) else raw
    shown = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text[:limit])
    return shown if max(len(text), len(shown)) <= limit else f"{shown[:limit]}…"


def escape_unencodable(stream: object) -> None:
    """Make a text stream write an escape for each character that its encoding lacks, instead of raising."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


class LimitedLog:
    """
    Rate-limited log lines, for problems that anybody outside can cause: a few of each reason, then one in ten seconds.

    Args:
        logger: Writes the lines.

    Attributes:
        left_out: Reason → how many lines were suppressed since the last line with this reason.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.left_out: dict[str, int] = {}
        self._logger = logger
        self._buckets: dict[str, TokenBucket] = {}

    def warning(self, reason: str, message: str, *arguments: object, error: BaseException | None = None) -> None:
        """
        Log a warning with the number of lines suppressed before it, or suppress it and count it.

        Args:
            error: Its traceback is logged too.
        """
        self._log(logging.WARNING, reason, message, arguments, error)

    def _log(
        self, level: int, reason: str, message: str, arguments: tuple[object, ...], error: BaseException | None
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
        """
        Log an error with its traceback, under the same limit as `warning`.

        Meant for functions of the project that outsiders can cause to be called.
        """
        self._log(logging.ERROR, reason, message, arguments, error)

    def flush(self) -> None:
        """Log how many lines of each reason were suppressed and are not mentioned yet."""
        for reason, count in self.left_out.items():
            self._logger.warning("%d more: %s", count, reason)
        self.left_out.clear()
