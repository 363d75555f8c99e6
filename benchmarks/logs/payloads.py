"""The records of the benchmarks: those of a game, as the demo logs them. Owns their text."""

from typing import Any

__all__ = ["MESSAGE", "QUEUE", "arguments", "extra"]

QUEUE = "benchmark"
MESSAGE = "%s attacks %s: %d points"


def arguments(number: int) -> tuple[str, str, int]:
    """Of the message."""
    return "Paper Tiger", "The Lighthouse", number


def extra(number: int) -> dict[str, Any]:
    """With a token, as long as that of a game."""
    return {"queue": QUEUE, "task": {"game_token": f"{number:032d}", "user_token": f"{number:032d}"}}
