"""
Reads the addresses that users have added, for many users in one query.

Owns sharing a query among the deliveries of a batch. Does not own which rows are addresses (base, webpush) or writing
them (preferences, destinations). All functions are sync: call them in a thread.
"""

import contextlib
import contextvars
from collections.abc import Collection, Iterator
from typing import Any

from django.db.models import F, Model, QuerySet, Window
from django.db.models.functions import RowNumber

__all__ = ["newest_of", "shared_lookups"]


class _Batch:
    """The rows of the users of one batch."""

    def __init__(self, user_ids: Collection[Any]) -> None:
        self._user_ids = frozenset(user_ids)
        # What was read so far: a model and a key → user id → rows.
        self._found: dict[tuple[type[Model], str], dict[Any, list[Any]]] = {}

    def __contains__(self, user_id: Any) -> bool:
        return user_id in self._user_ids

    def newest_of(self, user_id: Any, rows: QuerySet[Any], *, key: str, limit: int) -> list[Any]:
        found = self._found.get((rows.model, key))
        if found is None:
            found = self._found[rows.model, key] = self._read(rows, limit)
        # A list of its own for each caller: a transport of the project may change it.
        return list(found.get(user_id, ()))

    def _read(self, rows: QuerySet[Any], limit: int) -> dict[Any, list[Any]]:
        # The limit applies to each user in the database, because a user may have very many rows.
        place = Window(RowNumber(), partition_by=F("user_id"), order_by=F("id").desc())
        newest = rows.filter(user_id__in=self._user_ids).annotate(place=place).filter(place__lte=limit)
        found: dict[Any, list[Any]] = {}
        for row in newest.order_by("-id"):
            found.setdefault(row.user_id, []).append(row)
        return found


# The batch of the current thread or task.
_batch: contextvars.ContextVar[_Batch | None] = contextvars.ContextVar("signalbox_address_lookup", default=None)


@contextlib.contextmanager
def shared_lookups(user_ids: Collection[Any]) -> Iterator[None]:
    """
    Within this block, the first `newest_of` for one of these users reads the rows of all of them.

    Keep the block short: rows that are added or disabled within it may not be seen.
    """
    token = _batch.set(_Batch(user_ids))
    try:
        yield
    finally:
        _batch.reset(token)


def newest_of[Row: Model](user_id: Any, rows: QuerySet[Row], *, key: str = "", limit: int) -> list[Row]:
    """
    A user's rows, the newest first.

    Args:
        rows: The rows of all users, of a model with `user_id`.
        key: Identifies this selection of rows, if there are several for the same model.
        limit: The most rows of one user.
    """
    batch = _batch.get()
    if batch is not None and user_id in batch:
        return batch.newest_of(user_id, rows, key=key, limit=limit)
    return list(rows.filter(user_id=user_id).order_by("-id")[:limit])
