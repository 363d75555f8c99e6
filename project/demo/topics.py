"""The topics of the demo: news, and the vehicles of the map, for all users who are signed in."""

from typing import Any

from realtime.broker.history import HistoryPolicy
from realtime.topics import Snapshot, Tiles, Topic

__all__ = ["News", "Vehicles"]


class News(Topic):
    """`news.today`, `news.sport`, …: published with `manage.py publish news.today '{"headline": "…"}'`."""

    pattern = "news.<slug:name>"

    async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
        """Users who are signed in may subscribe."""
        return bool(user.is_authenticated)


class Vehicles(Topic):
    """`vehicles.bern`, `vehicles.zurich`, …: the vehicles of one city, moved by `manage.py simulate_vehicles`."""

    pattern = "vehicles.<slug:feed>"
    # A vehicle that was not published for two minutes leaves the map.
    snapshot = Snapshot(absent_after_seconds=120, gather_seconds=0.25)
    places = Tiles()
    # A map resumes from the snapshot, and needs no history.
    history = HistoryPolicy(size=0)

    async def may_follow(self, user: Any) -> bool:
        """Users who are signed in see all cities: one answer, instead of one for each city in view."""
        return bool(user.is_authenticated)

    async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
        """Users who are signed in may subscribe."""
        return bool(user.is_authenticated)
