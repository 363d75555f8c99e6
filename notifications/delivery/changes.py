"""
Changes of Delivery rows that are not the result of an attempt: held, released, skipped, postponed, sent again.

Owns these changes, each with its step in the history. Does not own claims and results (records), nor who decides on a
change. All functions are sync: call them in a thread.
"""

import datetime
import functools
import itertools
from collections.abc import Iterable

from django.db import transaction
from django.db.models import QuerySet

from notifications.database.clock import database_time, moment_of, now, stored
from notifications.database.row_locks import update_in_order
from notifications.database.transactions import write_transaction
from notifications.delivery.history import HistoryStep, appended, history_of
from notifications.delivery.records import database, rows
from notifications.models import Delivery
from realtime import statistics
from realtime.process_name import process_name

__all__ = ["hold", "note_lapsed", "postpone", "release", "reopen", "skip", "skip_replaced"]

State = Delivery.State
# States of deliveries that no bot is sending and that may still be sent.
WAITING = (State.PENDING, State.HELD)
# Fewer than the parameters that SQLite and PostgreSQL allow.
_IDS_PER_QUERY = 2000


def skip_replaced(notification_ids: Iterable[int]) -> int:
    """Skip the pending and held deliveries of notifications that were replaced. Returns how many there were."""
    ids: list[int] = []
    for part in itertools.batched(notification_ids, _IDS_PER_QUERY):
        ids += rows().filter(notification_id__in=part, state__in=WAITING).values_list("pk", flat=True)
    return sum(
        skip(rows().filter(pk__in=part, state__in=WAITING), "replaced by a newer notification")
        for part in itertools.batched(sorted(ids), _IDS_PER_QUERY)
    )


def reopen(deliveries: QuerySet[Delivery]) -> int:
    """
    Make failed deliveries pending again, with all their attempts and under the same key.

    Returns:
        How many there were. The sweep puts them on the stream. Addresses that already have the message do not get it
        again.
    """
    count = 0
    again = HistoryStep(what="sent again", at=now(), by=process_name())
    for delivery in deliveries.using(database()).filter(state=State.FAILED).order_by("pk"):
        left = {key: outcome for key, outcome in delivery.outcomes.items() if outcome != "failed"}
        with write_transaction(database()):
            is_mine = (
                rows()
                .filter(pk=delivery.pk, state=State.FAILED)
                .update(
                    state=State.PENDING,
                    attempts=0,
                    outcomes=left,
                    due_at=database_time(),
                    finished_at=None,
                    queued_at=None,
                    dead_letter="",
                    history=appended(_last_attempt(delivery), database()),
                )
            )
            if is_mine:
                rows().filter(pk=delivery.pk).update(history=appended(again, database()))
        count += is_mine
    return count


def hold(some: QuerySet[Delivery]) -> int:
    """Hold these deliveries until `release`. Returns how many there were."""
    reason = 'held by NOTIFICATIONS["DELIVERY"]'
    step = HistoryStep(what="held", at=now(), by=process_name(), answer=reason)
    return update_in_order(
        some,
        state=State.HELD,
        due_at=None,
        queued_at=None,
        holder="",
        answer=reason,
        history=appended(step, database()),
    )


def release(some: QuerySet[Delivery]) -> int:
    """
    Make the held ones among these deliveries pending again.

    Returns:
        How many there were. The sweep puts them on the stream. If NOTIFICATIONS["DELIVERY"] still applies to them, they
        are held again.
    """
    held = some.using(database()).filter(state=State.HELD)
    step = HistoryStep(what="released", at=now(), by=process_name())
    return update_in_order(
        held,
        state=State.PENDING,
        due_at=database_time(),
        queued_at=None,
        answer="",
        history=appended(step, database()),
    )


def skip(some: QuerySet[Delivery], reason: str) -> int:
    """Mark these deliveries as skipped, for this reason. Returns how many there were."""
    step = HistoryStep(what="skipped", at=now(), by=process_name(), answer=reason)
    skipped_count = update_in_order(
        some,
        state=State.SKIPPED,
        answer=reason,
        due_at=None,
        holder="",
        finished_at=stored(step.at),
        history=appended(step, database()),
    )
    if skipped_count:
        add = functools.partial(statistics.count, "deliveries.skipped", skipped_count, "", "")
        transaction.on_commit(add, using=database())
    return skipped_count


def postpone(some: QuerySet[Delivery], until: datetime.datetime, reason: str) -> int:
    """Make these deliveries, which are due, due at a later time (aware). Returns how many there were."""
    step = HistoryStep(what="postponed", at=now(), by=process_name(), answer=reason, until=until)
    return update_in_order(
        some,
        state=State.PENDING,
        holder="",
        due_at=stored(until),
        queued_at=None,
        history=appended(step, database()),
    )


def note_lapsed(some: QuerySet[Delivery]) -> None:
    """
    Add the step "lost" to the history of these deliveries: their claims have lapsed without a result.

    Call it after locking the rows and before changing them. It does not change their state: until another claim, the
    bot of this attempt may still record its result.
    """
    for row in some.only("attempts", "attempt_at", "attempt_by", "due_at", "history"):
        steps = history_of(row.history)
        began = None if row.attempt_at is None else moment_of(row.attempt_at)
        if row.due_at is None or (steps and steps[-1].what == "lost" and steps[-1].began == began):
            continue
        step = HistoryStep(what="lost", at=moment_of(row.due_at), by=row.attempt_by, attempt=row.attempts, began=began)
        rows().filter(pk=row.pk).update(history=appended(step, database()))


def _last_attempt(failed: Delivery) -> HistoryStep:
    """The step of the attempt with which a delivery failed."""
    ended_at = failed.finished_at or failed.created_at
    return HistoryStep(
        what="failed",
        at=moment_of(ended_at),
        by=failed.attempt_by,
        answer=failed.answer,
        attempt=failed.attempts,
        began=None if failed.attempt_at is None else moment_of(failed.attempt_at),
        seconds=failed.latency_seconds,
    )
