"""Kinds that wait, for processes under test."""

import datetime

from notifications.kinds import Kind

__all__ = ["Commented", "Mentioned"]


class Mentioned(Kind):
    """By mail only if nobody reads it for a while."""

    key = "mentioned"
    label = "Mentions"
    transports = ()
    fallback = {"email": datetime.timedelta(minutes=15)}  # noqa: RUF012 - as the documentation has it


class Commented(Kind):
    """By mail once an hour."""

    key = "commented"
    label = "Comments"
    transports = ()
    digest = {"email": "hourly"}  # noqa: RUF012 - likewise
