"""Vehicles on a map, for all users who are signed in."""

from typing import Any

from realtime.topics import Snapshot, Tiles, Topic

__all__ = ["Vehicles"]


class Vehicles(Topic):
    """`vehicles.sbb`, `vehicles.db`, …: a key for each vehicle."""

    pattern = "vehicles.<slug:feed>"
    snapshot = Snapshot(absent_after_seconds=None)
    places = Tiles()

    async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
        """Users who are signed in may subscribe."""
        return bool(user.is_authenticated)
