"""
Publishes vehicles that move, in a process of its own: `python -m tests.support.vehicle_process`.

Owns where each vehicle is. It reads commands: after "go" they move; after "rest" they stand still, and it prints the
truth, {"<topic> <key>": [offset, longitude, latitude, level, mode]}, in one line.
"""

import json
import random
import select
import sys

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

    def move() -> None:
        items = []
        for _ in range(MOVES_AT_A_TIME):
            topic, key = f"vehicles.{dice.choice(FEEDS)}", str(dice.randrange(KEYS_PER_FEED))
            _, x, y, level, mode = truth.get((topic, key)) or (
                *(0, dice.uniform(west, east), dice.uniform(south, north)),
                *(dice.choice((0, 7, 9)), dice.choice(("rail", "tram", "bus"))),
            )
            at = (
                min(max(x + dice.gauss(0, 0.2), west), east),
                min(max(y + dice.gauss(0, 0.1), south), north),
            )
            is_removed = dice.random() < 0.05
            items.append(
                Item(topic, None if is_removed else {"at": at}, key, at, None, {"mode": mode}, level, is_removed)
            )
        for item, published in zip(items, publish_many(items), strict=True):
            assert item.key is not None and item.at is not None and item.tags is not None
            truth.pop((item.topic, item.key), None)
            if not item.removed:
                mode = str(item.tags["mode"])
                truth[item.topic, item.key] = (published.position.offset, *item.at, item.level, mode)

    is_moving = False
    while True:
        if select.select([sys.stdin], [], [], INTERVAL_SECONDS if is_moving else None)[0]:
            command = sys.stdin.readline().strip()
            if not command:
                return
            is_moving = command == "go"
            if not is_moving:
                sys.stdout.write(f"{json.dumps({' '.join(name): state for name, state in truth.items()})}\n")
                sys.stdout.flush()
        if is_moving:
            move()


if __name__ == "__main__":
    main()
