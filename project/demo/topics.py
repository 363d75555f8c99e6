"""The topics of the demo: news for all users who are signed in."""

from typing import Any

from realtime.topics import Topic

__all__ = ["News"]


class News(Topic):
    """`news.today`, `news.sport`, …: published with `manage.py publish news.today '{"headline": "…"}'`."""

    pattern = "news.<slug:name>"

    async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
        """Users who are signed in may subscribe."""
        return bool(user.is_authenticated)
