"""The log records of the benchmarks, which are like those of the demo's games. Owns their text and their `extra`."""

from typing import Any

__all__ = ["MESSAGE", "QUEUE", "arguments", "extra"]

QUEUE = "benchmark"
MESSAGE = "%s attacks %s: %d points"


def arguments(number: int) -> tuple[str, str, int]:
    """The arguments of MESSAGE in the record with this number."""
    return "Paper Tiger", "The Lighthouse", number


def extra(number: int) -> dict[str, Any]:
    """The `extra` of the record with this number. The tokens contain the number, and are as long as those of a game."""
    return {"queue": QUEUE, "task": {"game_token": f"{number:032d}", "user_token": f"{number:032d}"}}
