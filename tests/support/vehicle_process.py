"""
Publishes vehicles that move, in a process of its own: `python -m tests.support.vehicle_process`.

Owns where each vehicle is. It publishes all of them, and prints the truth in one line: {"<topic> <key>": [offset,
longitude, latitude, level, mode]}. Then it reads commands: after "go" some of them move, again and again; after "rest"
they stand still, and it prints the truth.
"""

import json
import os
import random
import select
import sys
from collections.abc import Iterable

import django

__all__ = ["main"]

FEEDS = ("sbb", "db", "oebb", "sncf", "ns")
KEYS_PER_FEED = 60
MOVES_AT_A_TIME = 15
INTERVAL_SECONDS = 0.05
# West, south, east, north.
WORLD = (5.0, 45.0, 11.0, 48.0)


def main() -> None:
    """Move until the input ends."""
    django.setup()
    from realtime.publisher import Item, publish_many

    # The same vehicles for each run.
    dice = random.Random(7)  # noqa: S311
    west, south, east, north = WORLD
    truth: dict[tuple[str, str], tuple[int, float, float, int, str]] = {}

    def move(names: Iterable[tuple[str, str]], *, removed_share: float) -> None:
        items = []
        for topic, key in names:
            _, x, y, level, mode = truth.get((topic, key)) or (
                *(0, dice.uniform(west, east), dice.uniform(south, north)),
                *(dice.choice((0, 7, 9)), dice.choice(("rail", "tram", "bus"))),
            )
            at = (
                min(max(x + dice.gauss(0, 0.2), west), east),
                min(max(y + dice.gauss(0, 0.1), south), north),
            )
            is_removed = dice.random() < removed_share
            items.append(
                Item(topic, None if is_removed else {"at": at}, key, at, None, {"mode": mode}, level, is_removed)
            )
        for item, published in zip(items, publish_many(items), strict=True):
            assert item.key is not None and item.at is not None and item.tags is not None
            truth.pop((item.topic, item.key), None)
            if not item.removed:
                mode = str(item.tags["mode"])
                truth[item.topic, item.key] = (published.position.offset, *item.at, item.level, mode)

    def say_truth() -> None:
        sys.stdout.write(f"{json.dumps({' '.join(name): state for name, state in truth.items()})}\n")
        sys.stdout.flush()

    names = [(f"vehicles.{feed}", str(key)) for feed in FEEDS for key in range(KEYS_PER_FEED)]
    move(names, removed_share=0)
    say_truth()
    is_moving = False
    while True:
        if select.select([sys.stdin], [], [], INTERVAL_SECONDS if is_moving else None)[0]:
            # Not by lines: a second one would wait in a buffer that `select` does not know of.
            commands = os.read(sys.stdin.fileno(), 1024).split()
            if not commands:
                return
            for command in commands:
                is_moving = command == b"go"
                if not is_moving:
                    say_truth()
        if is_moving:
            move(dice.sample(names, MOVES_AT_A_TIME), removed_share=0.05)


if __name__ == "__main__":
    main()
