"""
What went wrong with deliveries: those that failed, and those that wait for another attempt, by the provider's answer.

Owns which deliveries are looked at, and the form in which answers are shown. Does not own how many there were (rows).
"""

import datetime
import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.db import router

from notifications.database.clock import moment_of, stored
from notifications.delivery.retries import without_given_up
from notifications.models import ANSWER_LIMIT, Delivery
from notifications.statistics.figures import ErrorExample
from realtime.untrusted.masking import mask_text
from realtime.untrusted.text import printable

__all__ = ["FAILURES_LIMIT", "Errors", "read_errors"]

# How many failures are looked at.
FAILURES_LIMIT = 500
# How many deliveries that are due next are looked at.
DUE_LIMIT = 1000
# How many different answers are returned.
ERRORS_SHOWN = 20
# How many characters of an answer are returned.
ANSWER_SHOWN = 200

_STATE = Delivery.State


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """What went wrong with deliveries."""

    # The most frequent answers, the most frequent first, each with the newest delivery.
    examples: tuple[ErrorExample, ...]
    # Transport → how many of its deliveries have failed and wait for another attempt, of those that are due next.
    retrying: Mapping[str, int]


def read_errors(since: datetime.datetime) -> Errors:
    """
    Read what went wrong.

    Args:
        since: Aware. Of failed deliveries, only those that failed at or after it are looked at; of those that wait for
            another attempt, all that are due next.

    Raises:
        OperationalError, InterfaceError: The database is unavailable.

    Guarantees:
        Two queries, each of which reads a limited number of rows by an index: the newest 500 failures, and the 1000
        deliveries that are due next. So more may wait for another attempt than `retrying` says. Answers are on one
        line, without secrets.
    """
    rows = Delivery.objects.using(router.db_for_read(Delivery))
    failed = rows.filter(state=_STATE.FAILED, finished_at__gte=stored(since)).order_by("-finished_at")
    due = rows.filter(due_at__isnull=False).order_by("due_at")
    waiting: Any = due.values_list("pk", "transport", "answer", "attempt_at", "state", "attempts")[:DUE_LIMIT]
    found: dict[tuple[str, str, bool], ErrorExample] = {}
    for pk, transport, answer, at in failed.values_list("pk", "transport", "answer", "finished_at")[:FAILURES_LIMIT]:
        if at is not None:
            _add(found, pk, transport, answer, at, is_final=True)
    retrying = Counter[str]()
    for pk, transport, answer, at, state, attempts in waiting:
        if state == _STATE.PENDING and attempts and answer and at is not None:
            _add(found, pk, transport, answer, at, is_final=False)
            retrying[transport] += 1
    by_count = sorted(found.values(), key=lambda each: (-each.count, each.transport, each.answer))
    return Errors(examples=tuple(by_count[:ERRORS_SHOWN]), retrying=retrying)


def _add(
    found: dict[tuple[str, str, bool], ErrorExample],
    pk: int,
    transport: str,
    answer: str,
    at: datetime.datetime,
    *,
    is_final: bool,
) -> None:
    shown, moment = _shown(without_given_up(answer)), moment_of(at)
    known = found.get((transport, shown, is_final))
    if known is None:
        found[transport, shown, is_final] = ErrorExample(
            transport=transport, answer=shown, is_final=is_final, count=1, delivery_id=pk, at=moment
        )
        return
    newest = replace(known, delivery_id=pk, at=moment) if moment > known.at else known
    found[transport, shown, is_final] = replace(newest, count=known.count + 1)


@functools.lru_cache(maxsize=FAILURES_LIMIT)
def _shown(answer: str) -> str:
    # Masked before it is cut: the cut could be between a password and the "@" by which it is recognised.
    return printable(mask_text(printable(" ".join(answer.split()), limit=10 * ANSWER_LIMIT)), limit=ANSWER_SHOWN)
