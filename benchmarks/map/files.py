"""
What the load client has to know of a map, as files: load/map.c reads them.

Owns their form. Does not own the world (world) nor what is sent to a server (dialects).
"""

import mmap
import struct
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.map.world import Box, Move, World

__all__ = ["Times", "write"]

_MOVE = struct.Struct("=2I4i4i320s")


class Times:
    """
    When each feed was published in each second, for the load client: one mapped file.

    Args:
        path: Where it is.
        feeds: How many feeds there are.
    """

    def __init__(self, path: Path, feeds: int) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._feeds = feeds

    def set(self, feed: int, second: int, microseconds: int) -> None:
        """Note when all vehicles of a feed were published."""
        struct.pack_into("=Q", self._memory, (second * self._feeds + feed) * 8, microseconds)


def write(
    directory: Path,
    world: World,
    moves: Sequence[Move],
    *,
    seconds: int,
    frame: Callable[[Move], str],
    allowed: Callable[[Move], Box],
) -> None:
    """
    Write all files.

    Args:
        seconds: The most that are published in a run.
        frame: What a viewer sends for a move; "#" in it becomes the number of the move.
        allowed: What the server may send for it: the box and something around it.
    """
    directory.mkdir()
    feed_of = array("I", [0] * world.vehicles)
    for feed, vehicles in enumerate(world.feeds):
        for vehicle in vehicles:
            feed_of[vehicle] = feed
    (directory / "feeds").write_bytes(feed_of.tobytes())
    (directory / "places").write_bytes(world.places.tobytes())
    (directory / "times").write_bytes(bytes(8 * seconds * len(world.feeds)))
    records = [_MOVE.pack(move.at_ms, move.viewer, *move.box, *allowed(move), _text(frame(move))) for move in moves]
    (directory / "moves").write_bytes(b"".join(records))


def _text(frame: str) -> bytes:
    text = frame.encode()
    if len(text) >= 320:
        raise ValueError(f"the frame of a move has {len(text)} bytes, the load client has room for 319")
    return text
