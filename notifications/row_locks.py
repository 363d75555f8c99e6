"""
The order in which rows are locked: everywhere the same, so that no two transactions wait for each other.

Owns how several rows are locked or changed at once. The order is events, notifications, digests, deliveries, and within
a table by id. Where two transactions lock the same rows in opposite orders, PostgreSQL ends one of them ("deadlock
detected"). A plain UPDATE of several rows locks them in whatever order the planner reads them. SQLite has one lock for
all writers, and needs none of this.
"""

from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Model, QuerySet
from django.db.models.expressions import RawSQL

__all__ = ["lock", "locked", "update_in_order"]


def locked[Row: Model](rows: QuerySet[Row]) -> QuerySet[Row]:
    """These rows, which are locked in their order when they are read; within a transaction, until it ends."""
    # Rows that refer to them may be inserted meanwhile: no key is changed.
    return rows.select_for_update(no_key=True).order_by("pk")


def lock(rows: QuerySet[Any]) -> None:
    """Lock these rows in their order, within a transaction, where a database locks rows."""
    if connections[rows.db].features.has_select_for_update:
        list(locked(rows).values_list("pk", flat=True))


def update_in_order(rows: QuerySet[Any], **values: Any) -> int:
    """As `rows.update(**values)`, with the rows locked in their order. Returns how many there were."""
    if connections[rows.db].features.has_select_for_update:
        # One statement: PostgreSQL looks at a row again after it has waited for it. Written out, because Django's
        # select_for_update() would want a transaction around it, which is two round trips more.
        try:
            sql, parameters = rows.order_by("pk").values("pk").query.get_compiler(rows.db).as_sql()
        except EmptyResultSet:
            # The conditions leave nothing, as `pk__in=[]` does: there is no statement for that.
            return 0
        ids = RawSQL(f"{sql} FOR NO KEY UPDATE", parameters)  # noqa: S611 - what Django wrote
        rows = rows.model._base_manager.using(rows.db).filter(pk__in=ids)
    count: int = rows.update(**values)
    return count
