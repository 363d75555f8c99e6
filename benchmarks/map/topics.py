"""The feeds of the benchmark's vehicles, as an app of a project declares them."""

from typing import Any

from realtime.topics import Snapshot, Tiles, Topic

__all__ = ["Vehicles"]


class Vehicles(Topic):
    """`map.f0`, `map.f1`, …: a key a vehicle."""

    pattern = "map.<slug:feed>"
    # A vehicle is published once a second: whether a change is shown a quarter of a second later makes no difference.
    snapshot = Snapshot(gather_seconds=0.25)
    places = Tiles()

    def may_follow(self, user: Any) -> bool:
        """Users who are signed in may follow all feeds."""
        return bool(user.is_authenticated)

    async def may_subscribe(self, user: Any, feed: str) -> bool:
        """Users who are signed in may subscribe."""
        return bool(user.is_authenticated)
