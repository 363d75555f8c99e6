"""
The history of a delivery: what happened to it before its current state, for the ledger of its notification.

Owns the column `Delivery.history`: the format of its steps, and appending one in an UPDATE that changes the row anyway.
Does not own when there is a step (changes, records) or showing it (statistics.ledger).

A delivery that succeeds at the first attempt has no history: its row says when, by which process and with which answer.
Of a long history, the first 3 and the last 20 steps are kept. Steps are numbered, so a gap shows how many are missing.
"""

import datetime
from typing import Any, Literal

import msgspec
from django.db import connections
from django.db.models import JSONField
from django.db.models.expressions import RawSQL

__all__ = ["HISTORY_LIMIT", "HistoryStep", "append_sql", "appended", "encode", "history_of"]

# A longer history loses the step after the first KEPT_FIRST ones.
HISTORY_LIMIT = 23
KEPT_FIRST = 3

type What = Literal[
    # An attempt ended, and another one follows.
    "retried",
    # The claim of an attempt lapsed: the process ended, or was suspended, and there is no result.
    "lost",
    # The last attempt, before the delivery was sent again.
    "failed",
    "sent again",
    # A time when nothing is sent, such as quiet hours.
    "postponed",
    "skipped",
    "held",
    "released",
]


class HistoryStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step. `attempt`, `began`, `seconds` and `is_counted` are about an attempt."""

    what: What
    # When it happened or, of an attempt, ended, in UTC.
    at: datetime.datetime
    # The process; None if it is not known.
    by: str | None = None
    # The provider's answer, or the reason.
    answer: str = ""
    attempt: int | None = None
    began: datetime.datetime | None = None
    # How long it took.
    seconds: float | None = None
    # False for an attempt that does not count, because our own database or Redis was unavailable.
    is_counted: bool = True
    # When the next attempt is due; of "postponed", the end of the wait.
    until: datetime.datetime | None = None
    # 1 for the first step of the delivery. The database sets it.
    number: int = 0


def encode(step: HistoryStep) -> str:
    """The step as the parameter of `append_sql`."""
    return msgspec.json.encode(step).decode()


def append_sql(database: str) -> str:
    """SQL for the value of the column with one more step; its parameter is the step of `encode`."""
    if connections[database].vendor == "postgresql":
        return f"""
            (CASE WHEN jsonb_array_length(history) >= {HISTORY_LIMIT} THEN history - {KEPT_FIRST}
             ELSE COALESCE(history, '[]'::jsonb) END)
            || (%s::jsonb || jsonb_build_object('number', COALESCE((history -> -1 ->> 'number')::int, 0) + 1))
        """
    return f"""
        json_insert(
            CASE WHEN json_array_length(history) >= {HISTORY_LIMIT} THEN json_remove(history, '$[{KEPT_FIRST}]')
            ELSE COALESCE(history, '[]') END,
            '$[#]',
            json_set(json(%s), '$.number', COALESCE(json_extract(history, '$[#-1].number'), 0) + 1)
        )
    """


def appended(step: HistoryStep, database: str) -> RawSQL:
    """The column with one more step, as a value for `QuerySet.update`."""
    return RawSQL(append_sql(database), [encode(step)], output_field=JSONField())  # noqa: S611 - our own SQL


def history_of(value: Any) -> list[HistoryStep]:
    """The steps in a value of the column, oldest first."""
    return msgspec.convert(value or [], list[HistoryStep])
