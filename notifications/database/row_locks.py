"""
The order in which rows are locked: the same everywhere, so that transactions cannot deadlock.

Owns locking or changing several rows at once. The order is events, notifications, digests, deliveries, and by id within
a table. If two transactions lock the same rows in opposite orders, PostgreSQL aborts one of them ("deadlock detected").
A plain UPDATE of several rows locks them in the order in which the planner reads them. SQLite has one lock for all
writers, and needs none of this.
"""

from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Model, QuerySet
from django.db.models.expressions import RawSQL

__all__ = ["lock", "lock_clause", "locked", "update_in_order"]


def lock_clause(database: str) -> str:
    """The SQL clause with which a SELECT locks its rows as `locked` does; "" if the database has no row locks."""
    return "FOR NO KEY UPDATE" if connections[database].features.has_select_for_update else ""


def locked[Row: Model](rows: QuerySet[Row]) -> QuerySet[Row]:
    """The same rows. Evaluating the queryset locks them in the order of ids, until the transaction ends."""
    # "No key": other transactions may still insert rows that refer to these.
    return rows.select_for_update(no_key=True).order_by("pk")


def lock(rows: QuerySet[Any]) -> None:
    """Lock these rows in the order of ids until the transaction ends, if the database has row locks."""
    if connections[rows.db].features.has_select_for_update:
        list(locked(rows).values_list("pk", flat=True))


def update_in_order(rows: QuerySet[Any], **values: Any) -> int:
    """Like `rows.update(**values)`, but the rows are locked in the order of ids. Returns how many there were."""
    if connections[rows.db].features.has_select_for_update:
        # In one statement: PostgreSQL checks the conditions of a row again after it has waited for the row's lock. It
        # is written by hand, because Django's select_for_update() needs a transaction: two more round trips.
        try:
            sql, parameters = rows.order_by("pk").values("pk").query.get_compiler(rows.db).as_sql()
        except EmptyResultSet:
            # The conditions match nothing, for example `pk__in=[]`: Django makes no SQL for that.
            return 0
        ids = RawSQL(f"{sql} {lock_clause(rows.db)}", parameters)  # noqa: S611 - what Django wrote
        rows = rows.model._base_manager.using(rows.db).filter(pk__in=ids)
    count: int = rows.update(**values)
    return count
