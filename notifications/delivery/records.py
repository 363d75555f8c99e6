"""
The rows of deliveries: what became of each notification on each transport. Only this module, `claim` and `changes`
write them.

Owns recording results, and finding deliveries that are overdue. Does not own making claims (claim), changes without an
attempt (changes), planning (plan), calling providers (bot) or the stream (workers.recovery). All functions are sync:
call them in a thread.
"""

import datetime
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections, router
from django.db.models import F, Q, QuerySet
from django.db.models.expressions import Combinable
from django.utils import timezone

from notifications import conf
from notifications.database.clock import database_time, now, stored
from notifications.database.row_locks import lock, locked, update_in_order
from notifications.database.transactions import write_transaction
from notifications.delivery.history import HistoryStep, append_sql, appended, encode
from notifications.models import ANSWER_LIMIT, Delivery
from realtime.process_name import process_name
from realtime.untrusted.text import printable

__all__ = [
    "TO_SEND",
    "Claim",
    "Result",
    "claim_end",
    "database",
    "extend",
    "find_overdue",
    "insert",
    "make_due",
    "mark_queued",
    "record",
    "record_many",
    "rows",
]

State = Delivery.State
# States of deliveries that a bot sends when they are due. A held one is not among them.
TO_SEND = (State.PENDING, State.SENDING)
# If the sweep has put a delivery on the stream and no bot has claimed it after this time, it is put there again.
QUEUED_SECONDS = 60.0
_ROWS_PER_INSERT = 500
# The columns that are not set when a delivery is planned: their default is null.
_LATER_FIELDS = ("queued_at", "latency_seconds", "attempt_at", "attempt_by", "history", "finished_at")
# The columns that `record` writes, apart from the history.
_RESULT_FIELDS = (
    "state",
    "answer",
    "outcomes",
    "latency_seconds",
    "attempts",
    "due_at",
    "finished_at",
    "holder",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to call one provider for one notification, until it lapses."""

    delivery_id: int
    transport: str
    # The effect key, as 32 hexadecimal digits.
    key: str
    # Which attempt it is for; the first is 1.
    attempt: int
    # The addresses that are done: address key → "sent", "failed" or "gone".
    outcomes: dict[str, str]
    # Its id: the row has the same `holder` as long as the claim holds.
    holder: str
    # Whether it waited on purpose: for a fallback, a digest or the end of quiet hours.
    has_waited: bool = False
    # For a digest: its id, and the ids of its notifications, oldest first.
    digest_id: int | None = None
    notification_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """
    How an attempt ended.

    Attributes:
        state: Pending if there will be another attempt; otherwise the final state.
        answer: The provider's answer, or what went wrong; 500 characters of it are kept.
        outcomes: Like `Claim.outcomes`, with the addresses of this attempt.
        retry_seconds: If pending, how long until the next attempt.
        latency_seconds: How long the attempt took.
        is_counted: Whether it counts as an attempt; it does not during an outage of our own database or Redis.
    """

    state: Delivery.State
    answer: str
    outcomes: dict[str, str]
    retry_seconds: float = 0.0
    latency_seconds: float | None = None
    is_counted: bool = True


def insert(planned: Iterable[Delivery]) -> None:
    """
    Insert planned deliveries. If two bots plan the same ones at the same time, each row is written once.

    It is raw SQL, because bulk_create() took a fifth of the time of a claim.
    """
    connection = connections[database()]
    concrete = Delivery._meta.concrete_fields
    fields: list[Any] = [each for each in concrete if not each.primary_key and each.name not in _LATER_FIELDS]
    names = ", ".join(field.column for field in fields)
    places = f"({', '.join(['%s'] * len(fields))})"
    for part in itertools.batched(planned, _ROWS_PER_INSERT):
        rows = ", ".join([places] * len(part))
        sql = f"INSERT INTO {Delivery._meta.db_table} ({names}) VALUES {rows} ON CONFLICT DO NOTHING"  # noqa: S608
        values = [field.get_db_prep_save(getattr(each, field.attname), connection) for each in part for field in fields]
        with connection.cursor() as cursor:
            cursor.execute(sql, values)


def extend(claim: Claim, outcomes: dict[str, str]) -> bool:
    """
    Record the addresses that are done, and extend the claim by its full time.

    Returns:
        False if another bot has the claim now: nothing more may be sent.
    """
    return update_in_order(_held(claim), outcomes=outcomes, due_at=claim_end()) > 0


def record(claim: Claim, result: Result) -> bool:
    """`record_many` for one claim."""
    return record_many([(claim, result)])[0]


def record_many(ended: Sequence[tuple[Claim, Result]]) -> list[bool]:
    """
    Record the results of attempts, and give up their claims.

    Returns:
        For each: False if nothing was written, because another bot has the claim now or the delivery was deleted.
    """
    with write_transaction(database()):
        pks = [claim.delivery_id for claim, _ in ended if claim.digest_id is None]
        mine = rows().filter(pk__in=pks, state=State.SENDING)
        if digests := [claim.digest_id for claim, _ in ended if claim.digest_id is not None]:
            lock(rows().filter(Q(pk__in=pks) | Q(digest_id__in=digests), state=State.SENDING))
        found = locked(mine).values_list("pk", "holder", "attempts", database_time())
        held = {(pk, holder): (attempts, at) for pk, holder, attempts, at in found}
        written: list[tuple[int, dict[str, Any], HistoryStep | None]] = []
        answers: list[bool] = []
        for claim, result in ended:
            step = _retried(claim, result) if result.state in TO_SEND else None
            if claim.digest_id is not None:
                values = {**_values_of(result), "attempts": F("attempts") - int(not result.is_counted)}
                if step is not None:
                    values["history"] = appended(step, database())
                answers.append(_held(claim).update(**values) > 0)
            elif (row := held.pop((claim.delivery_id, claim.holder), None)) is not None:
                attempts, at = row
                values = {**_values_of(result), "attempts": attempts - int(not result.is_counted)}
                if step is not None:
                    values["due_at"] = at + datetime.timedelta(seconds=result.retry_seconds)
                written.append((claim.delivery_id, values, step))
                answers.append(True)
            else:
                answers.append(False)
        _write(written)
    return answers


def find_overdue(limit: int, *, read_until: datetime.datetime) -> list[int]:
    """
    The notifications with deliveries that are due or whose claim has lapsed; the most overdue first.

    A digest is represented by one of its notifications.

    Args:
        read_until: The bots have read all entries from before this time. Deliveries that were put on the stream later
            still wait there, and are left out.
    """
    has_had_no_effect = Q(queued_at__lt=database_time(-QUEUED_SECONDS)) & Q(queued_at__lt=stored(read_until))
    is_not_queued = Q(queued_at=None) | has_had_no_effect
    due = rows().filter(is_not_queued, due_at__lte=database_time()).order_by("due_at")
    found: dict[int, None] = {}
    digests: set[int] = set()
    for notification_id, digest_id in due.values_list("notification_id", "digest_id")[:limit]:
        if digest_id is None:
            found[notification_id] = None
        elif digest_id not in digests:
            digests.add(digest_id)
            found[notification_id] = None
    return list(found)


def mark_queued(notification_ids: Iterable[int]) -> int:
    """Mark the due deliveries of these notifications, and of their digests, as put on the stream. Returns how many."""
    due = rows().filter(due_at__lte=database_time())
    named = due.filter(notification_id__in=list(notification_ids))
    digests = set(named.exclude(digest=None).values_list("digest_id", flat=True))
    queued = named.filter(digest=None) | due.filter(digest_id__in=digests) if digests else named.filter(digest=None)
    return update_in_order(queued, queued_at=database_time())


def make_due(transports: Iterable[str]) -> int:
    """
    Give a time to the deliveries of these transports that are to be sent and have none. Returns how many there were.

    Only a defect or another program leaves such rows. A bot may be sending one of them, so each becomes due only when a
    claim that is made now would lapse. The transports are named so that an index finds the rows.
    """
    never_due = rows().filter(due_at=None, transport__in=list(transports), state__in=TO_SEND)
    # Nearly always there are none, and an UPDATE of no rows would wait for SQLite's one writer all the same.
    return update_in_order(never_due, due_at=claim_end()) if never_due.exists() else 0


def claim_end() -> Combinable:
    """When a claim that is made now lapses."""
    return database_time(conf.get_settings().delivery_claim_seconds)


def rows() -> QuerySet[Delivery]:
    """All deliveries, in the database that `database` names."""
    return Delivery.objects.using(database())


def database() -> str:
    """The alias of the database with the deliveries."""
    return router.db_for_write(Delivery)


def _retried(claim: Claim, result: Result) -> HistoryStep:
    """The step of an attempt that just ended, and that another one follows."""
    at = now()
    return HistoryStep(
        what="retried",
        at=at,
        by=process_name(),
        answer=_clip(result.answer),
        attempt=claim.attempt,
        began=None if result.latency_seconds is None else at - datetime.timedelta(seconds=result.latency_seconds),
        seconds=result.latency_seconds,
        is_counted=result.is_counted,
        until=at + datetime.timedelta(seconds=result.retry_seconds),
    )


def _values_of(result: Result) -> dict[str, Any]:
    is_finished = result.state not in TO_SEND
    return {
        "state": result.state,
        "answer": _clip(result.answer),
        "outcomes": result.outcomes,
        "latency_seconds": result.latency_seconds,
        "due_at": None if is_finished else database_time(result.retry_seconds),
        "finished_at": timezone.now() if is_finished else None,
        "holder": "",
    }


def _write(ended: Iterable[tuple[int, Mapping[str, Any], HistoryStep | None]]) -> None:
    """
    Save the values of _RESULT_FIELDS of each delivery, and append its step, if any, to its history.

    bulk_update() would take many times as long.
    """
    connection = connections[database()]
    quote = connection.ops.quote_name
    fields = [field for field in Delivery._meta.concrete_fields if field.name in _RESULT_FIELDS]
    assignments = [f"{quote(str(field.column))} = %s" for field in fields]
    table, key = quote(Delivery._meta.db_table), quote(str(Delivery._meta.pk.column))
    # One statement for the rows without a step, and one for those with one.
    parameters: dict[bool, list[list[Any]]] = {False: [], True: []}
    for pk, values, step in ended:
        of_row = [field.get_db_prep_save(values[field.name], connection) for field in fields]
        parameters[step is not None].append([*of_row, *([] if step is None else [encode(step)]), pk])
    for has_step, of_rows in parameters.items():
        more = [f"history = {append_sql(database())}"] if has_step else []
        statement = f"UPDATE {table} SET {', '.join(assignments + more)} WHERE {key} = %s"  # noqa: S608 - our own names
        if of_rows:
            with connection.cursor() as cursor:
                cursor.executemany(statement, of_rows)


def _held(claim: Claim) -> QuerySet[Delivery]:
    mine = {"pk": claim.delivery_id} if claim.digest_id is None else {"digest_id": claim.digest_id}
    return rows().filter(**mine, holder=claim.holder, state=State.SENDING)


def _clip(text: str) -> str:
    # A provider's answer may contain a NUL, which databases refuse. The admin shows the answer on one line.
    return printable(" ".join(text.split()), limit=ANSWER_LIMIT - 1)
