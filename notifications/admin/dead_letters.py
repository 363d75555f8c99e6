"""
Finding dead letters for the admin: by group and user, in pages, newest first.

Owns the query, the pages and their limits. Does not own reading and moving letters (realtime.streams.dead_letters), or
permissions and the log of actions (dead_letters_view).
"""

import contextlib
import datetime
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError

from notifications.admin.history import users_matching
from notifications.admin.shown import FIELDS_SHOWN, shown_fields
from notifications.database import clock
from realtime.streams.dead_letters import DeadLetter, find
from realtime.streams.keys import GroupKeys
from realtime.untrusted.shown import shown_text

__all__ = ["ACT_LIMIT", "PAGE_SIZE", "Page", "Query", "Row", "find_chosen", "is_letter_id", "read_page"]

PAGE_SIZE = 50
# The most dead letters that one request replays or purges.
ACT_LIMIT = 10_000
# The most batches of up to 200 letters that are searched for one page. After that, the page offers to continue.
TURNS_LIMIT = 50
# The most users that a search term may match.
USERS_LIMIT = 1000
REASONS = {
    "failed": "failed in every attempt",
    "rejected": "rejected by its handler",
    "unfinished": "no attempt finished",
    "unreadable": "its parked record cannot be read",
}
_LETTER_ID = re.compile(r"\d{1,20}(-\d{1,20})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Selects the dead letters of one group; with a `word`, only those of the users that it matches."""

    stream: str
    group: str
    word: str = ""

    @property
    def keys(self) -> GroupKeys:
        """The group's Redis names."""
        return GroupKeys(self.stream, self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A dead letter as it is shown. The template has to escape it."""

    id: str
    entry_id: str
    given_up_at: datetime.datetime
    user: str
    reason: str
    attempts: int
    error: str
    fields: tuple[tuple[str, str], ...]
    hidden_fields_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """
    Some dead letters, newest first.

    Attributes:
        older_from: The id at which the next page begins; "" if there is none.
        is_cut: Whether the search stopped before the page was full: older letters were not searched.
    """

    rows: tuple[Row, ...]
    older_from: str
    is_cut: bool


def is_letter_id(text: str) -> bool:
    """Whether a text has the form of a dead letter's id."""
    return _LETTER_ID.fullmatch(text) is not None


def read_page(client: redis.Redis, query: Query, *, until: str | None) -> Page:
    """
    The page that begins with the letter `until`, by default the newest.

    Raises:
        redis.RedisError: Redis is unavailable.
    """
    matches = _matcher(query.word)
    searched_until = ""

    def is_wanted(letter: DeadLetter) -> bool:
        nonlocal searched_until
        searched_until = letter.id
        return matches is None or matches(letter)

    letters: list[DeadLetter] = []
    turns = find(client, query.keys, is_wanted=is_wanted, until=until, newest_first=True)
    for number, turn in enumerate(turns, 1):
        letters += turn
        if len(letters) > PAGE_SIZE:
            return Page(rows=_rows(letters[:PAGE_SIZE]), older_from=letters[PAGE_SIZE].id, is_cut=False)
        if number == TURNS_LIMIT:
            return Page(rows=_rows(letters), older_from=_before(searched_until), is_cut=True)
    return Page(rows=_rows(letters), older_from="", is_cut=False)


def find_chosen(
    client: redis.Redis, query: Query, *, ids: Iterable[str] | None, until: str | None
) -> Iterator[list[DeadLetter]]:
    """
    The chosen dead letters in batches, oldest first, at most ACT_LIMIT.

    Args:
        ids: The ids of the selected letters; None for all letters of the query.
        until: If `ids` is None, the newest letter to include.

    Raises:
        redis.RedisError: Redis is unavailable.
    """
    if ids is None:
        return find(client, query.keys, is_wanted=_matcher(query.word), until=until, limit=ACT_LIMIT)
    chosen = sorted(ids, key=lambda id: [int(part) for part in id.split("-")])
    if not chosen:
        return iter(())
    return find(client, query.keys, ids=frozenset(chosen), since=chosen[0], until=chosen[-1], limit=len(chosen))


def _matcher(word: str) -> Callable[[DeadLetter], bool] | None:
    """Whether a letter belongs to a user that the word matches; None if there is no word."""
    if not word:
        return None
    users = {str(user_id) for user_id in users_matching(word).values_list("pk", flat=True)[:USERS_LIMIT]} | {word}
    return lambda letter: letter.key in users


def _rows(letters: list[DeadLetter]) -> tuple[Row, ...]:
    names = _user_names({letter.key for letter in letters})
    return tuple(
        Row(
            id=letter.id,
            entry_id=shown_text(letter.entry_id),
            given_up_at=_given_up_at(letter),
            user=names.get(letter.key) or ("" if letter.key == letter.entry_id else shown_text(letter.key)),
            reason=REASONS.get(letter.reason) or shown_text(letter.reason),
            attempts=letter.attempts,
            error=shown_text(letter.error),
            fields=tuple(shown_fields(letter.fields)),
            hidden_fields_count=max(0, len(letter.fields) - FIELDS_SHOWN),
        )
        for letter in letters
    )


def _given_up_at(letter: DeadLetter) -> datetime.datetime:
    # If another program has written the letter, the time in its id may be beyond the calendar.
    now = clock.now()
    return datetime.datetime.fromtimestamp(min(letter.given_up_at, now.timestamp()), datetime.UTC)


def _user_names(keys: set[str]) -> dict[str, str]:
    """The names of the users with these primary keys, by the key as text."""
    model = get_user_model()
    ids: list[Any] = []
    for key in keys:
        with contextlib.suppress(ValidationError, ValueError, OverflowError):
            ids.append(model._meta.pk.to_python(key))
    return {str(user.pk): str(user) for user in model._default_manager.filter(pk__in=ids)}


def _before(id: str) -> str:
    """The largest id before this one; "" if there is none."""
    time, _, number = id.partition("-")
    if int(number):
        return f"{time}-{int(number) - 1}"
    return f"{int(time) - 1}" if int(time) else ""
