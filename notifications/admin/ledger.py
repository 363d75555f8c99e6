"""
The ledger of a notification on its page, as JSON and as CSV.

Owns these three forms. Does not own the steps and their order (statistics.ledger), or permissions (notifications).
"""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from django.http import HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from notifications.admin.spreadsheet import csv_text
from notifications.admin.states import badge
from notifications.models import Notification
from notifications.statistics.ledger import LedgerStep, describe

__all__ = ["LedgerRow", "ledger_response", "ledger_rows"]

# The colour of a step's badge, as the key of a state with that colour. Other steps are grey.
BADGES = {
    "relayed": "relayed",
    "seen": "seen",
    "read": "read",
    "sent": "published",
    "failed": "failed",
    "lost": "failed",
    "retried": "waiting",
    "not counted": "waiting",
    "sending": "relayed",
    "held": "waiting",
    "due": "waiting",
    "never due": "failed",
}
CSV_HEADER = ("time", "step", "transport", "attempt", "process", "began", "seconds", "until", "answer")


class LedgerRow(NamedTuple):
    """A row of the table: the step, with its cells."""

    step: LedgerStep
    time: SafeString
    badge: SafeString
    took: str
    # The time of `LedgerStep.until`, if any.
    until: SafeString | None


def ledger_rows(steps: Iterable[LedgerStep]) -> list[LedgerRow]:
    """The rows of the table."""
    return [
        LedgerRow(
            step=step,
            time=_shown_moment(step.at),
            badge=badge(BADGES.get(step.what, ""), describe(step)),
            took="" if step.seconds is None else f"{step.seconds * 1000:,.0f} ms",
            until=None if step.until is None else _shown_moment(step.until),
        )
        for step in steps
    ]


def ledger_response(notification: Notification, steps: Sequence[LedgerStep], *, form: str) -> HttpResponse:
    """The ledger as "json" or "csv"; times are in UTC."""
    if form == "json":
        return HttpResponse(msgspec.json.encode(_for_programs(notification, steps)), content_type="application/json")
    rows = (
        (
            *(step.at.isoformat(), step.what, step.transport, step.attempt, step.process),
            *(_text(step.began_at), step.seconds, _text(step.until), step.answer),
        )
        for step in steps
    )
    response = HttpResponse(csv_text(CSV_HEADER, rows), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="notification-{notification.pk}.csv"'
    return response


def _for_programs(notification: Notification, steps: Sequence[LedgerStep]) -> dict[str, Any]:
    return {"notification_id": notification.pk, "event_id": notification.event_id, "steps": steps}


def _text(moment: datetime.datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _shown_moment(moment: datetime.datetime) -> SafeString:
    """A time with milliseconds in the site's time zone."""
    local = timezone.localtime(moment)
    text = f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03}"
    return format_html('<time class="sb-time" datetime="{}">{}</time>', local.isoformat(), text)
