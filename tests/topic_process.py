"""
A publisher as a process of its own: `python -m tests.topic_process URL TOPIC COUNT HISTORY_SIZE [BATCH_SIZE]`.

Publishes the numbers from 1 to COUNT, as fast as it can, BATCH_SIZE (100) a round trip. Once it is ready it waits for a
line on stdin; it ends with its stdin.
"""

import sys

from realtime.history import HistoryPolicy, Outgoing
from realtime.layer import RedisChannelLayer


def main(url: str, topic: str, count: str, history_size: str, batch_size: str = "100") -> None:
    """Publish, and end."""
    layer = RedisChannelLayer([url])
    policy = HistoryPolicy(size=int(history_size))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for start in range(1, int(count) + 1, int(batch_size)):
        numbers = range(start, min(start + int(batch_size), int(count) + 1))
        layer.publish_many_now([Outgoing(topic, b"%d" % number, policy) for number in numbers])


if __name__ == "__main__":
    main(*sys.argv[1:])
