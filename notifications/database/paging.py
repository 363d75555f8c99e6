"""
Walking through rows in the order of a time, page by page.

Owns that a walk costs as much as it is long, however much waits behind its end. Does not own what is done with rows.
"""

from collections.abc import Iterator
from typing import Any

from django.db.models import Model, Q, QuerySet

__all__ = ["PAGE_SIZE", "oldest_first"]

# The most ids in memory.
PAGE_SIZE = 1000


def oldest_first[Row: Model](rows: QuerySet[Row], time_field: str, *, page_size: int) -> Iterator[int]:
    """
    The ids of `rows` by a time of theirs, which has an index and is not null; of one time, by their ids.

    Args:
        page_size: So many are fetched at once, PAGE_SIZE at most: what the caller is likely to need.

    Guarantees:
        Each row comes once, whatever the caller does with those it has got: the next page begins behind the last one.
    """
    size = min(page_size, PAGE_SIZE)
    ordered = rows.order_by(time_field, "id").values_list(time_field, "id")
    behind = ordered
    while page := list(behind[:size]):
        yield from (id for _, id in page)
        if len(page) < size:
            return
        behind = ordered.filter(_behind(time_field, *page[-1]))


def _behind(time_field: str, time: Any, id: int) -> Q:
    # The second part says it all; the first lets a database begin in the middle of the index.
    return Q(**{f"{time_field}__gte": time}) & (Q(**{f"{time_field}__gt": time}) | Q(id__gt=id))
