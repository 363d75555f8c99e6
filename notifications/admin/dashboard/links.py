"""
Where the figures of the dashboard lead: the admin's lists, filtered so that they show exactly the rows that a figure
counts.

Owns these URLs, and that the user may open each of them. Does not own the filters (admin.states, admin.deliveries).
"""

import datetime
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from notifications.conf import STREAM
from notifications.database.clock import stored
from notifications.delivery.records import TO_SEND
from notifications.label import admin_url_name, permission
from notifications.models import Delivery
from realtime.conf import keys

__all__ = ["Between", "Links"]

# The start and the end of a part of the period; None for no end.
type Between = tuple[datetime.datetime, datetime.datetime | None]

# The states of deliveries that a figure of a transport counts.
_STATES_OF = {
    "sent": (Delivery.State.SENT,),
    "failed": (Delivery.State.FAILED,),
    "skipped": (Delivery.State.SKIPPED,),
    "unfinished": (Delivery.State.PENDING, Delivery.State.SENDING, Delivery.State.HELD),
}


class Links:
    """
    The links of one page.

    Args:
        request: Of the user who follows the links. A link that the user may not open is "".
        site: The name of the admin site.
        since: The start of the period.
    """

    def __init__(self, request: HttpRequest, site: str, *, since: datetime.datetime) -> None:
        self._user = request.user
        self._site = site
        self._since = since
        # The URLs of pages that were asked for before, because there are hundreds of links to the same few.
        self._urls: dict[tuple[object, ...], str] = {}

    @property
    def may_view_deliveries(self) -> bool:
        """Whether the user may see what providers answered."""
        return bool(self._user.has_perm(permission("view_delivery")))

    def notifications(self, reached: str = "", *, kind: str = "", between: Between | None = None) -> str:
        """The notifications of the period, or of a part of it, that have come this far."""
        return self._rows("notification", between, reached=reached, event__kind__exact=kind)

    def deliveries(self, transport: str, figure: str = "", *, between: Between | None = None) -> str:
        """The deliveries of the period, or of a part of it, that this figure of `TransportFigures` counts."""
        return self._rows("delivery", between, transport=transport, state__in=",".join(_STATES_OF.get(figure, ())))

    def retried(self, transport: str) -> str:
        """The deliveries of the period with more than one attempt."""
        return self._rows("delivery", None, transport=transport, attempts__gt="1")

    def never_due(self, transport: str) -> str:
        """All deliveries of a transport that are to be sent, but are never due: nobody handles them."""
        return self._list("delivery", transport=transport, state__in=",".join(TO_SEND), due_at__isnull="True")

    def events(self, state: str) -> str:
        """The events in this state."""
        return self._list("event", state=state)

    def delivery(self, delivery_id: int) -> str:
        """The page of one delivery."""
        return self._url("view_delivery", admin_url_name("delivery_change"), delivery_id)

    def dead_letters(self, group: str) -> str:
        """The dead letters of a group of the stream of notifications."""
        url = self._url("view_dead_letters", admin_url_name("delivery_dead_letters"))
        return _with(url, stream=keys().stream(STREAM), group=group)

    def tasks(self, queue: str = "", state: str = "") -> str:
        """The background tasks of a queue in a state. Another app shows them."""
        if not self._user.has_perm("realtime.view_task"):
            return ""
        return _with(self._reversed("realtime_task_changelist"), queue=queue, state=state)

    def _rows(self, model: str, between: Between | None, **filters: str) -> str:
        start, end = between or (self._since, None)
        times = {"created_at__gte": stored(start).isoformat(sep=" ")}
        if end is not None:
            times["created_at__lt"] = stored(end).isoformat(sep=" ")
        return self._list(model, **times, **filters)

    def _list(self, model: str, **filters: str) -> str:
        return _with(self._url(f"view_{model}", admin_url_name(f"{model}_changelist")), **filters)

    def _url(self, needed: str, name: str, *arguments: object) -> str:
        key = (name, *arguments)
        if key not in self._urls:
            may_open = self._user.has_perm(permission(needed))
            self._urls[key] = self._reversed(name, *arguments) if may_open else ""
        return self._urls[key]

    def _reversed(self, name: str, *arguments: object) -> str:
        try:
            return reverse(f"{self._site}:{name}", args=arguments)
        except NoReverseMatch:
            # The project does not show this model in this site.
            return ""


def _with(url: str, **filters: str) -> str:
    query = urlencode({name: value for name, value in filters.items() if value})
    return f"{url}?{query}" if url and query else url
