"""
Iterating over rows in the order of a time, page by page.

Owns that the cost depends on the rows that are read, and not on the rows after them. Does not own the rows.
"""

from collections.abc import Iterator
from typing import Any

from django.db.models import Model, Q, QuerySet

__all__ = ["PAGE_SIZE", "oldest_first"]

# The most ids in memory.
PAGE_SIZE = 1000


def oldest_first[Row: Model](rows: QuerySet[Row], time_field: str, *, page_size: int) -> Iterator[int]:
    """
    The ids of `rows`, ordered by a time and then by id.

    Args:
        time_field: The column of the time; it has an index and is not null.
        page_size: How many rows are fetched at once (at most PAGE_SIZE): as many as the caller is likely to need.

    Guarantees:
        Each row comes once, even if the caller changes rows: the next page begins after the last row of this page.
    """
    size = min(page_size, PAGE_SIZE)
    ordered = rows.order_by(time_field, "id").values_list(time_field, "id")
    rest = ordered
    while page := list(rest[:size]):
        yield from (id for _, id in page)
        if len(page) < size:
            return
        rest = ordered.filter(_after(time_field, *page[-1]))


def _after(time_field: str, time: Any, id: int) -> Q:
    # The second condition is sufficient. The first lets the database start in the middle of the index.
    return Q(**{f"{time_field}__gte": time}) & (Q(**{f"{time_field}__gt": time}) | Q(id__gt=id))
