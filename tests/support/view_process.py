"""
Looks at one topic, in a process of its own: `python -m tests.support.view_process URL TOPIC ABSENT_AFTER_SECONDS`.

It prints "ready" once it has the snapshot, and goes on until it is killed.
"""

import asyncio
import sys

from realtime.broker.history import HistoryPolicy
from realtime.broker.snapshot import Snapshot
from realtime.layer import RedisChannelLayer
from realtime.live.filters import Selector
from realtime.live.places import area_of
from realtime.live.view import Lens
from realtime.live.views import Family
from tests.support.view_clients import Viewer

__all__ = ["main"]


async def main(url: str, topic: str, absent_after_seconds: str) -> None:
    """Look at it."""
    layer = RedisChannelLayer([url])
    policy = Snapshot(gather_seconds=0, absent_after_seconds=float(absent_after_seconds))
    family = Family(name=topic, snapshot=policy, history=HistoryPolicy(size=0))
    lens = Lens(area_of(None), Selector.of(), 1)
    await layer.views.join(topic, family, Viewer(), view_id="v1", lens=lens, topics=[topic])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
