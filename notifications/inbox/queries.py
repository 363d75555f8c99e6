"""
What the inbox shows: the bell's short list and the pages of the whole.

Owns the questions behind the views and the template tag, each with a fixed number of queries, and which addresses may
stand in a link. Does not own writes (services) nor the tables (models).
"""

from dataclasses import dataclass
from typing import Any

from django.db import router
from django.db.models import Count, QuerySet, Subquery
from django.db.models.functions import Coalesce

from notifications.content.envelope import is_link
from notifications.models import Notification
from notifications.models.inbox import NotificationQuerySet

__all__ = ["BELL_LIMIT", "PAGE_LIMIT", "Bell", "Page", "notifications", "read_bell", "read_page", "safe_href"]

BELL_LIMIT = 10
PAGE_LIMIT = 25
# The badge on the bell has room for two figures; bell.js has the same limit.
_BADGE_LIMIT = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """What the bell shows: two counts over the whole inbox, and its newest notifications."""

    unread: int
    # Of the unread, those that have arrived since the bell was last opened.
    unseen: int
    notifications: list[Notification]

    @property
    def badge(self) -> str:
        """The number of unread notifications as the badge shows it: at most "99+"."""
        return str(self.unread) if self.unread <= _BADGE_LIMIT else f"{_BADGE_LIMIT}+"

    @property
    def newest_id(self) -> int:
        """The id up to which the counts speak; 0 for an empty inbox."""
        return self.notifications[0].pk if self.notifications else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the inbox, newest first."""

    notifications: list[Notification]
    # Given as `before`, it yields the next page; None on the last.
    next_before: int | None


def read_bell(user_id: Any) -> Bell:
    """
    The bell of one user.

    Guarantees:
        Counts and list are of one moment. One query: of two, a notification that is committed between them is in the
        list and in no count, and a page that finds it in the list counts it never.
    """
    unread = notifications().unread(user_id)
    rows = (
        notifications().inbox(user_id).annotate(unread=_count_of(unread), unseen=_count_of(unread.filter(seen_at=None)))
    )
    found: list[Any] = list(rows[:BELL_LIMIT])
    # What is unread is in the inbox: an empty one has none.
    counts = {"unread": found[0].unread, "unseen": found[0].unseen} if found else {"unread": 0, "unseen": 0}
    return Bell(notifications=found, **counts)


def notifications() -> NotificationQuerySet:
    """
    All notifications, never read from a replica, which may lag.

    A page is loaded right after a notification was marked as read, or while newer ones have reached the browser.
    """
    return Notification.objects.using(router.db_for_write(Notification))


def _count_of(notifications: QuerySet[Notification]) -> Coalesce:
    """How many there are, as a column; independent of the row that it is in, databases count once."""
    # Grouped by the one recipient that they have: no row at all instead of 0.
    counted = notifications.order_by().values("recipient_id").annotate(count=Count("id")).values("count")
    return Coalesce(Subquery(counted), 0)


def read_page(user_id: Any, *, before: int | None = None, unread_only: bool = False) -> Page:
    """
    One page of the inbox, in one query.

    Args:
        before: Only notifications with a lower id: a page stays the same page while new ones arrive.
        unread_only: Leave out what has been read.
    """
    inbox = notifications().inbox(user_id)
    if unread_only:
        inbox = inbox.filter(read_at=None)
    if before is not None:
        inbox = inbox.filter(id__lt=before)
    found = list(inbox[: PAGE_LIMIT + 1])
    shown = found[:PAGE_LIMIT]
    return Page(notifications=shown, next_before=shown[-1].pk if len(found) > PAGE_LIMIT else None)


def safe_href(url: str) -> str:
    """`url` if it is safe in a link (a path, http or https), else ""."""
    return url if is_link(url) else ""
