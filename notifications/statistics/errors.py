"""
The latest failed deliveries, by what the provider answered.

Owns which failures are looked at, and the form in which answers are shown. Does not own how many there were (rows).
"""

import datetime
from dataclasses import replace
from typing import Any

from django.db import router

from notifications.database.clock import moment_of, stored
from notifications.models import Delivery
from notifications.statistics.figures import ErrorExample
from realtime.untrusted.masking import mask_text
from realtime.untrusted.text import printable

__all__ = ["FAILURES_LIMIT", "read_errors"]

# How many failures are looked at, and how many different answers are returned.
FAILURES_LIMIT = 500
ERRORS_SHOWN = 20
# Characters.
ANSWER_SHOWN = 200


def read_errors(since: datetime.datetime) -> tuple[ErrorExample, ...]:
    """
    The answers of the newest failures since a time, the most frequent first, with the newest delivery of each.

    Args:
        since: Aware. Only deliveries that failed at or after it are looked at.

    Raises:
        OperationalError, InterfaceError: The database is unavailable.

    Guarantees:
        One query, which reads the newest 500 failures by their own index. Answers are on one line, without secrets.
    """
    failed = Delivery.objects.using(router.db_for_read(Delivery)).filter(state=Delivery.State.FAILED)
    newest = failed.filter(finished_at__gte=stored(since)).order_by("-finished_at")
    rows: Any = newest.values_list("pk", "transport", "answer", "finished_at")[:FAILURES_LIMIT]
    found: dict[tuple[str, str], ErrorExample] = {}
    shown_of: dict[str, str] = {}
    for pk, transport, answer, finished_at in rows:
        shown = shown_of.get(answer) or shown_of.setdefault(answer, _shown(answer))
        newer = found.get((transport, shown))
        found[transport, shown] = (
            replace(newer, count=newer.count + 1)
            if newer is not None
            else ErrorExample(transport=transport, answer=shown, count=1, delivery_id=pk, at=moment_of(finished_at))
        )
    return tuple(sorted(found.values(), key=lambda each: (-each.count, each.transport, each.answer))[:ERRORS_SHOWN])


def _shown(answer: str) -> str:
    return mask_text(printable(" ".join(answer.split()), limit=ANSWER_SHOWN))
