"""
What the bell and the inbox show.

Owns the queries of the views and the template tag, a fixed number for each, and which URLs may be used in a link. Does
not own writes (services) or the tables (models).
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
# The badge on the bell has room for two digits. bell.js has the same limit.
_BADGE_LIMIT = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """What the bell shows: two counts of the whole inbox, and its newest notifications."""

    unread: int
    # The unread ones that arrived since the bell was last opened.
    unseen: int
    notifications: list[Notification]

    @property
    def badge(self) -> str:
        """The number of unread notifications as the badge shows it: at most "99+"."""
        return str(self.unread) if self.unread <= _BADGE_LIMIT else f"{_BADGE_LIMIT}+"

    @property
    def newest_id(self) -> int:
        """The id of the newest notification that is counted; 0 for an empty inbox."""
        return self.notifications[0].pk if self.notifications else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the inbox, newest first."""

    notifications: list[Notification]
    # The argument `before` for the next page; None on the last page.
    next_before: int | None


def read_bell(user_id: Any) -> Bell:
    """
    The bell of one user.

    Guarantees:
        The counts and the list are read in one query. With two queries, a notification that is committed between them
        could be in the list but not counted, and the page would never count it.
    """
    unread = notifications().unread(user_id)
    rows = (
        notifications().inbox(user_id).annotate(unread=_count_of(unread), unseen=_count_of(unread.filter(seen_at=None)))
    )
    found: list[Any] = list(rows[:BELL_LIMIT])
    # Unread notifications are in the inbox, so an empty inbox has none.
    counts = {"unread": found[0].unread, "unseen": found[0].unseen} if found else {"unread": 0, "unseen": 0}
    return Bell(notifications=found, **counts)


def notifications() -> NotificationQuerySet:
    """
    All notifications, never from a replica.

    A replica may lag, but a page may be loaded right after a notification was marked as read, or while newer ones have
    already reached the browser.
    """
    return Notification.objects.using(router.db_for_write(Notification))


def _count_of(notifications: QuerySet[Notification]) -> Coalesce:
    """Their number, as a column. It does not depend on the row, so databases count only once."""
    # They all have the same recipient, so there is one group, or none if there are no rows.
    counted = notifications.order_by().values("recipient_id").annotate(count=Count("id")).values("count")
    return Coalesce(Subquery(counted), 0)


def read_page(user_id: Any, *, before: int | None = None, unread_only: bool = False) -> Page:
    """
    One page of the inbox, in one query.

    Args:
        before: Only notifications with a lower id. So a page stays the same while new notifications arrive.
        unread_only: Leave out notifications that have been read.
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
