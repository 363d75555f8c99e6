"""
Publishes on one topic with a snapshot, in a process of its own: `python -m tests.support.key_process URL TOPIC COUNT`.

It publishes COUNT keys and prints "ready". Then it changes, removes and adds keys until a line comes on stdin, after
which it prints the truth, {"<key>": offset}, in one line.
"""

import json
import random
import select
import sys

from realtime.broker.history import HistoryPolicy
from realtime.broker.publish import Keyed, PublishRequest
from realtime.broker.relevance import Relevance
from realtime.broker.snapshot import Snapshot
from realtime.layer import RedisChannelLayer

__all__ = ["main"]

CHANGES_AT_A_TIME = 200


def main(url: str, topic: str, count: str) -> None:
    """Publish until it is asked for the truth."""
    layer = RedisChannelLayer([url])
    policy, history = Snapshot(), HistoryPolicy(size=0)
    dice = random.Random(3)  # noqa: S311 - the same changes for each run
    truth: dict[str, int] = {}

    def publish(keys: list[tuple[str, bool]]) -> None:
        requests = [
            PublishRequest(topic, b"null", history, keyed=Keyed(Relevance(key, is_removed=is_removed), policy))
            for key, is_removed in keys
        ]
        for (key, is_removed), published in zip(keys, layer.publish_many_now(requests), strict=True):
            truth.pop(key, None)
            if not is_removed:
                truth[key] = published.position.offset

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    publish([(f"key {number}", False) for number in range(int(count))])
    say("ready")
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        publish(
            [
                (f"key {dice.randrange(int(count) + 1_000)}", dice.random() < 0.2)
                for _ in range(dice.randrange(CHANGES_AT_A_TIME))
            ]
        )
    say(json.dumps(truth))


if __name__ == "__main__":
    main(*sys.argv[1:])
