"""The feeds of the benchmark's vehicles, as an app of a project declares them."""

import os
from typing import Any

from realtime.topics import Snapshot, Tiles, Topic

__all__ = ["Vehicles"]


class Vehicles(Topic):
    """`map.f0`, `map.f1`, …: a key a vehicle."""

    pattern = "map.<slug:feed>"
    snapshot = Snapshot(gather_seconds=float(os.environ.get("MAP_GATHER_SECONDS", "0.5")))
    places = Tiles()

    def may_follow(self, user: Any) -> bool:
        """Users who are signed in may follow all feeds."""
        return bool(user.is_authenticated)

    async def may_subscribe(self, user: Any, feed: str) -> bool:
        """Users who are signed in may subscribe."""
        return bool(user.is_authenticated)
