"""
What became of each notification on each transport: the only writer of Delivery rows, together with `claim`.

Owns results, what is no longer to be sent, and finding what is overdue. Does not own claims (claim), which
transports and when (plan), calling providers (bot) nor the stream (recovery). Sync; run it in a thread from async
code.
"""

import datetime
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connections, router
from django.db.models import F, Q, QuerySet
from django.db.models.expressions import Combinable
from django.utils import timezone

from notifications import conf
from notifications.database.clock import database_time, stored
from notifications.database.row_locks import lock, locked, update_in_order
from notifications.database.transactions import write_transaction
from notifications.delivery.values import Claim, Result
from notifications.models import ANSWER_LIMIT, Delivery
from realtime.untrusted.text import printable

__all__ = [
    "UNFINISHED",
    "claim_end",
    "database",
    "find_overdue",
    "hold",
    "insert",
    "keep",
    "mark_queued",
    "record",
    "record_many",
    "release",
    "reopen",
    "rows",
    "skip",
    "skip_replaced",
]

State = Delivery.State
UNFINISHED = (State.PENDING, State.SENDING)
# States of deliveries that nobody is sending and that may still be sent.
WAITING = (State.PENDING, State.HELD)
# What the sweep has put on the stream is put there again if nothing has come of it for so long.
QUEUED_SECONDS = 60.0
# Below the number of parameters that SQLite and PostgreSQL take.
_IDS_PER_QUERY = 2000
_ROWS_PER_INSERT = 500
# What `record` writes of a delivery.
_END_FIELDS = (
    "state",
    "answer",
    "outcomes",
    "latency_seconds",
    "attempts",
    "due_at",
    "finished_at",
    "holder",
)


def insert(planned: Iterable[Delivery]) -> None:
    """
    Insert planned deliveries. If two bots plan the same ones at the same time, each row is written once.

    In SQL: bulk_create() took a fifth of the time of a claim.
    """
    connection = connections[database()]
    fields: list[Any] = [field for field in Delivery._meta.concrete_fields if not field.primary_key]
    names = ", ".join(field.column for field in fields)
    places = f"({', '.join(['%s'] * len(fields))})"
    for part in itertools.batched(planned, _ROWS_PER_INSERT):
        rows = ", ".join([places] * len(part))
        sql = f"INSERT INTO {Delivery._meta.db_table} ({names}) VALUES {rows} ON CONFLICT DO NOTHING"  # noqa: S608
        values = [field.get_db_prep_save(getattr(each, field.attname), connection) for each in part for field in fields]
        with connection.cursor() as cursor:
            cursor.execute(sql, values)


def keep(claim: Claim, outcomes: dict[str, str]) -> bool:
    """
    Note what is done with, and hold the claim for its full time again.

    Returns:
        False if somebody else has it: nothing more may be sent.
    """
    return update_in_order(_held(claim), outcomes=outcomes, due_at=claim_end()) > 0


def record(claim: Claim, result: Result) -> bool:
    """`record_many` for one."""
    return record_many([(claim, result)])[0]


def record_many(ended: Sequence[tuple[Claim, Result]]) -> list[bool]:
    """
    Write down how attempts ended, and give their claims up.

    Returns:
        Of each: False if the claim had lapsed and somebody else has it, or the delivery was deleted; nothing was
        written.
    """
    with write_transaction(database()):
        pks = [claim.delivery_id for claim, _ in ended if claim.digest_id is None]
        mine = rows().filter(pk__in=pks, state=State.SENDING)
        if digests := [claim.digest_id for claim, _ in ended if claim.digest_id is not None]:
            lock(rows().filter(Q(pk__in=pks) | Q(digest_id__in=digests), state=State.SENDING))
        found = locked(mine).annotate(now=database_time()).only("holder", "attempts")
        held: dict[tuple[int, str], Any] = {(row.pk, row.holder): row for row in found}
        written: list[Delivery] = []
        answers: list[bool] = []
        for claim, result in ended:
            if claim.digest_id is not None:
                values = {**_end_of(result), "attempts": F("attempts") - int(not result.is_counted)}
                answers.append(_held(claim).update(**values) > 0)
            elif (row := held.pop((claim.delivery_id, claim.holder), None)) is not None:
                row.attempts -= int(not result.is_counted)
                for name, value in _end_of(result).items():
                    setattr(row, name, value)
                if row.due_at is not None:
                    row.due_at = row.now + datetime.timedelta(seconds=result.retry_seconds)
                written.append(row)
                answers.append(True)
            else:
                answers.append(False)
        _write(written)
    return answers


def find_overdue(limit: int, *, read_until: datetime.datetime) -> list[int]:
    """
    The notifications of deliveries whose time has come, or whose holder is gone; the most overdue first.

    Of a digest, one: it stands for all.

    Args:
        read_until: What was put on the stream before, the bots have read: what was put there later still waits for
            them, and is not put there again.
    """
    has_come_to_nothing = Q(queued_at__lt=database_time(-QUEUED_SECONDS)) & Q(queued_at__lt=stored(read_until))
    waits = Q(queued_at=None) | has_come_to_nothing
    due = rows().filter(waits, due_at__lte=database_time()).order_by("due_at")
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
    """These are on the stream, and the digests that they stand for. Returns how many deliveries are."""
    due = rows().filter(due_at__lte=database_time())
    named = due.filter(notification_id__in=list(notification_ids))
    digests = set(named.exclude(digest=None).values_list("digest_id", flat=True))
    meant = named.filter(digest=None) | due.filter(digest_id__in=digests) if digests else named.filter(digest=None)
    return update_in_order(meant, queued_at=database_time())


def skip_replaced(notification_ids: Iterable[int]) -> int:
    """Skip the waiting deliveries of notifications that were replaced by newer ones. Returns how many there were."""
    ids: list[int] = []
    for part in itertools.batched(notification_ids, _IDS_PER_QUERY):
        ids += rows().filter(notification_id__in=part, state__in=WAITING).values_list("pk", flat=True)
    return sum(
        skip(rows().filter(pk__in=part, state__in=WAITING), "replaced by a newer notification")
        for part in itertools.batched(sorted(ids), _IDS_PER_QUERY)
    )


def reopen(deliveries: QuerySet[Delivery]) -> int:
    """
    Try failed deliveries again: their attempts begin anew, under the key they had.

    Returns:
        How many there were. The sweep puts them on the stream. Addresses that were reached are left out again.
    """
    count = 0
    for delivery in deliveries.using(database()).filter(state=State.FAILED).order_by("pk"):
        left = {key: outcome for key, outcome in delivery.outcomes.items() if outcome != "failed"}
        count += (
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
            )
        )
    return count


def hold(some: QuerySet[Delivery]) -> int:
    """Hold these deliveries until `release`. Returns how many there were."""
    return update_in_order(
        some,
        state=State.HELD,
        due_at=None,
        queued_at=None,
        holder="",
        answer='held back by NOTIFICATIONS["DELIVERY"]',
    )


def release(some: QuerySet[Delivery]) -> int:
    """
    Release the held ones among these deliveries.

    Returns:
        How many there were. The sweep puts them on the stream. NOTIFICATIONS["DELIVERY"] then decides about them again.
    """
    held = some.using(database()).filter(state=State.HELD)
    return update_in_order(held, state=State.PENDING, due_at=database_time(), queued_at=None, answer="")


def skip(some: QuerySet[Delivery], reason: str) -> int:
    """Mark these as not to be sent, for this reason. Returns how many there were."""
    return update_in_order(some, state=State.SKIPPED, answer=reason, due_at=None, holder="", finished_at=timezone.now())


def claim_end() -> Combinable:
    """When a claim of now lapses."""
    return database_time(conf.get_settings().delivery_claim_seconds)


def rows() -> QuerySet[Delivery]:
    """The deliveries of this project's database."""
    return Delivery.objects.using(database())


def database() -> str:
    """Where deliveries are."""
    return router.db_for_write(Delivery)


def _end_of(result: Result) -> dict[str, Any]:
    is_over = result.state not in UNFINISHED
    return {
        "state": result.state,
        "answer": _clip(result.answer),
        "outcomes": result.outcomes,
        "latency_seconds": result.latency_seconds,
        "due_at": None if is_over else database_time(result.retry_seconds),
        "finished_at": timezone.now() if is_over else None,
        "holder": "",
    }


def _write(ended: Sequence[Delivery]) -> None:
    """Save these fields of each, as bulk_update does at many times the cost."""
    connection = connections[database()]
    quote = connection.ops.quote_name
    fields = [field for field in Delivery._meta.concrete_fields if field.name in _END_FIELDS]
    assignments = ", ".join(f"{quote(str(field.column))} = %s" for field in fields)
    table, key = quote(Delivery._meta.db_table), quote(str(Delivery._meta.pk.column))
    values = [
        [*(field.get_db_prep_save(getattr(row, field.attname), connection) for field in fields), row.pk]
        for row in ended
    ]
    statement = f"UPDATE {table} SET {assignments} WHERE {key} = %s"  # noqa: S608 - names of the model's columns
    if values:
        with connection.cursor() as cursor:
            cursor.executemany(statement, values)


def _held(claim: Claim) -> QuerySet[Delivery]:
    mine = {"pk": claim.delivery_id} if claim.digest_id is None else {"digest_id": claim.digest_id}
    return rows().filter(**mine, holder=claim.holder, state=State.SENDING)


def _clip(text: str) -> str:
    # A provider's answer may contain characters that databases refuse (NUL), and the admin shows it on one line.
    return printable(" ".join(text.split()), limit=ANSWER_LIMIT - 1)
