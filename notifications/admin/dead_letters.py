"""
Dead letters as the admin asks for them: of one group, of one user, in pages, newest first.

Owns the question, the pages and their limits. Does not own finding and moving them (realtime.streams.dead_letters, as
for the commands), nor who may do it and the record of it (dead_letters_view).
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
from notifications.admin.shown import FIELDS_SHOWN, shown_fields, shown_text
from notifications.database import clock
from realtime.streams.dead_letters import DeadLetter, find
from realtime.streams.group import GroupKeys

__all__ = ["ACT_LIMIT", "PAGE_SIZE", "Page", "Query", "Row", "find_chosen", "is_letter_id", "read_page"]

PAGE_SIZE = 50
# Dead letters that one request replays or purges at most.
ACT_LIMIT = 10_000
# Turns of up to 200 letters that one page looks through; then it offers to go on.
TURNS_LIMIT = 50
# Users that a word of the search may mean.
USERS_LIMIT = 1000
REASONS = {
    "failed": "failed in every attempt",
    "rejected": "rejected by its handler",
    "unfinished": "no attempt came to an end",
    "unreadable": "its parked record cannot be read",
}
_LETTER_ID = re.compile(r"\d{1,20}(-\d{1,20})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which dead letters are meant: those of one group; with a word, of the users whom it means."""

    stream: str
    group: str
    word: str = ""

    @property
    def keys(self) -> GroupKeys:
        """The group's Redis names."""
        return GroupKeys(self.stream, self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A dead letter as it is shown; nothing in it is escaped yet."""

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
        older_from: Where the next page begins; "" if there is none.
        is_cut: Whether the search has stopped before it had a page full: what is older was not looked at.
    """

    rows: tuple[Row, ...]
    older_from: str
    is_cut: bool


def is_letter_id(text: str) -> bool:
    """Whether it looks like the id of a dead letter; Redis is asked nothing else."""
    return _LETTER_ID.fullmatch(text) is not None


def read_page(client: redis.Redis, query: Query, *, until: str | None) -> Page:
    """
    The page that begins with the letter `until`, by default the newest.

    Raises:
        redis.RedisError: Redis is away.
    """
    means = _wanted(query.word)
    looked_until = ""

    def is_wanted(letter: DeadLetter) -> bool:
        nonlocal looked_until
        looked_until = letter.id
        return means is None or means(letter)

    letters: list[DeadLetter] = []
    turns = find(client, query.keys, is_wanted=is_wanted, until=until, newest_first=True)
    for number, turn in enumerate(turns, 1):
        letters += turn
        if len(letters) > PAGE_SIZE:
            return Page(rows=_rows(letters[:PAGE_SIZE]), older_from=letters[PAGE_SIZE].id, is_cut=False)
        if number == TURNS_LIMIT:
            return Page(rows=_rows(letters), older_from=_before(looked_until), is_cut=True)
    return Page(rows=_rows(letters), older_from="", is_cut=False)


def find_chosen(
    client: redis.Redis, query: Query, *, ids: Iterable[str] | None, until: str | None
) -> Iterator[list[DeadLetter]]:
    """
    The dead letters that were chosen, oldest first, some at a time, at most 10,000.

    Args:
        ids: Those chosen one by one; None for all that the query means.
        until: With all: up to this letter.

    Raises:
        redis.RedisError: Redis is away.
    """
    if ids is None:
        return find(client, query.keys, is_wanted=_wanted(query.word), until=until, limit=ACT_LIMIT)
    chosen = sorted(ids, key=lambda id: [int(part) for part in id.split("-")])
    if not chosen:
        return iter(())
    return find(client, query.keys, ids=frozenset(chosen), since=chosen[0], until=chosen[-1], limit=len(chosen))


def _wanted(word: str) -> Callable[[DeadLetter], bool] | None:
    """None where every letter is wanted."""
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
    # The id of what another program has put there may say a time that no calendar has.
    now = clock.now()
    return datetime.datetime.fromtimestamp(min(letter.given_up_at, now.timestamp()), datetime.UTC)


def _user_names(keys: set[str]) -> dict[str, str]:
    """The names of those users whose primary keys are among `keys`, by the key as text."""
    model = get_user_model()
    ids: list[Any] = []
    for key in keys:
        with contextlib.suppress(ValidationError, ValueError, OverflowError):
            ids.append(model._meta.pk.to_python(key))
    return {str(user.pk): str(user) for user in model._default_manager.filter(pk__in=ids)}


def _before(id: str) -> str:
    """The greatest id that comes before this one; "" if there is none."""
    time, _, number = id.partition("-")
    if int(number):
        return f"{time}-{int(number) - 1}"
    return f"{int(time) - 1}" if int(time) else ""
