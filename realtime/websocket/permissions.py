"""
Checks the permissions for topics again while connections are subscribed to them.

Owns the queue of users to check, how many are checked at a time, and what the answer does to a subscription. Does not
own when a user is to be checked (roster) nor the permission hooks (topics).
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from realtime import topics
from realtime.untrusted.text import LimitedLog
from realtime.websocket.authentication import DATABASE_UNAVAILABLE

__all__ = ["PermissionRecheck", "TopicSubscriber"]

logger = logging.getLogger(__name__)
# Rate-limited: a hook that fails may fail for every user, again and again.
_log = LimitedLog(logger)

USERS_AT_A_TIME = 100


class TopicSubscriber(Protocol):
    """An open connection and its topics, as the recheck sees it; implemented by `client.Client`."""

    # The user, as last read from the database.
    user: Any

    @property
    def is_rechecked(self) -> bool:
        """Whether the user can lose the permission for something that it is subscribed to."""

    def rechecked_topics(self) -> list[str]:
        """The topics that it is subscribed to and for which the permission can be lost."""

    def revoke(self, topic: str, code: str, detail: str) -> None:
        """Unsubscribe from a topic and tell the client why, with an error code. Does nothing if not subscribed."""

    async def recheck_filters(self) -> None:
        """Ask again what the user may see of the topics that it is subscribed to."""


class PermissionRecheck:
    """
    Checks the permissions of the users that it is given, on one event loop, until `run` is cancelled.

    Args:
        subscribers_of: Gives the open connections of a user.

    Guarantees:
        After each `add` of a user there is a check that begins later. Several calls of `add` may share one check.
    """

    def __init__(self, subscribers_of: Callable[[Any], Iterable[TopicSubscriber]]) -> None:
        self._subscribers_of = subscribers_of
        # Primary keys of the users to check, oldest first.
        self._waiting: dict[Any, None] = {}
        self._came = asyncio.Event()

    def add(self, user_id: Any) -> None:
        """Check this user soon."""
        self._waiting[user_id] = None
        self._came.set()

    async def run(self) -> None:
        """Check the users that `add` was given, until this is cancelled."""
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                users = list(itertools.islice(self._waiting, USERS_AT_A_TIME))
                for user_id in users:
                    del self._waiting[user_id]
                try:
                    await self._ask(users)
                except Exception:
                    logger.exception("the permissions of %d users could not be checked again", len(users))

    async def _ask(self, user_ids: Iterable[Any]) -> None:
        # One question for all connections of a user that are subscribed to the topic.
        questions: dict[tuple[Any, str], tuple[topics.TopicMatch, Any]] = {}
        for user_id in user_ids:
            for subscriber in self._subscribers_of(user_id):
                for topic in subscriber.rechecked_topics():
                    if (match := topics.resolve(topic)) is not None:
                        questions[user_id, topic] = (match, subscriber.user)
        answers = await topics.may_subscribe_all(list(questions.values()))
        for (user_id, topic), answer in zip(questions, answers, strict=True):
            if answer is not True:
                self._handle_loss(user_id, topic, answer)
        # Several at a time: a slow hook of one user must not hold up the others.
        subscribers = [each for user_id in user_ids for each in self._subscribers_of(user_id) if each.is_rechecked]
        for group in itertools.batched(subscribers, topics.PERMISSIONS_AT_A_TIME):
            await asyncio.gather(*(each.recheck_filters() for each in group))

    def _handle_loss(self, user_id: Any, topic: str, answer: bool | Exception) -> None:
        code, detail = "forbidden", "this user may no longer receive the topic"
        if isinstance(answer, (*DATABASE_UNAVAILABLE, TimeoutError)):
            # This says nothing about the user: the subscription stays, and the next round checks again.
            text = "could not check whether user %s may still receive %s; the next round checks again"
            _log.warning("unavailable", text, user_id, topic, error=answer)
            return
        if isinstance(answer, Exception):
            # For example, the row that the hook reads was deleted: the permission counts as lost.
            text = "the check whether user %s may still receive %s failed: unsubscribed"
            _log.exception("may_subscribe", answer, text, user_id, topic)
            code, detail = "failed", "the check whether this user may receive the topic failed"
        for subscriber in self._subscribers_of(user_id):
            subscriber.revoke(topic, code, detail)
