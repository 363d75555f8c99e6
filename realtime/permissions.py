"""
The permissions of topics, asked for again while somebody hears them.

Owns the queue of users to ask about, how many are asked at a time, and what an answer means for who hears the topic.
Does not own when a user is to be asked about (roster) nor the hooks (topics).
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from realtime import topics
from realtime.authentication import AWAY
from realtime.foreign_text import LimitedLog

__all__ = ["PermissionRecheck", "TopicHearer"]

logger = logging.getLogger(__name__)
# A permission hook that fails does so for each user, again and again.
_log = LimitedLog(logger)

USERS_AT_A_TIME = 100


class TopicHearer(Protocol):
    """One open connection, as far as its topics go; `sessions.ClientSession`."""

    # As the account was when it was last looked up.
    user: Any

    def rechecked_topics(self) -> list[str]:
        """The topics that it hears and that a user can lose."""

    def revoke(self, topic: str, code: str, detail: str) -> None:
        """Hear a topic no more, and tell the client why: `code` is one of an error. Nothing if it is not heard."""


class PermissionRecheck:
    """
    Asks again about users that it is given, on one event loop, until `run` is cancelled.

    Args:
        hearers_of: The connections that a user has now.

    Guarantees:
        A user who is given is asked about once more after that, however often it is given meanwhile.
    """

    def __init__(self, hearers_of: Callable[[Any], Iterable[TopicHearer]]) -> None:
        self._hearers_of = hearers_of
        # By primary key, in the order in which they are asked about.
        self._waiting: dict[Any, None] = {}
        self._came = asyncio.Event()

    def add(self, user_id: Any) -> None:
        """Ask about this user soon."""
        self._waiting[user_id] = None
        self._came.set()

    async def run(self) -> None:
        """Ask about those who are given, until it is cancelled."""
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
                    logger.exception("the permissions of %d users could not be asked for again", len(users))

    async def _ask(self, user_ids: Iterable[Any]) -> None:
        # Once for all connections of a user.
        questions: dict[tuple[Any, str], tuple[topics.TopicMatch, Any]] = {}
        for user_id in user_ids:
            for hearer in self._hearers_of(user_id):
                for topic in hearer.rechecked_topics():
                    if (match := topics.resolve(topic)) is not None:
                        questions[user_id, topic] = (match, hearer.user)
        answers = await topics.may_subscribe_all(list(questions.values()))
        for (user_id, topic), answer in zip(questions, answers, strict=True):
            if answer is not True:
                self._lost(user_id, topic, answer)

    def _lost(self, user_id: Any, topic: str, answer: bool | Exception) -> None:
        code, detail = "forbidden", "this user may not hear the topic any more"
        if isinstance(answer, (*AWAY, TimeoutError)):
            # It says nothing of the user: the next round asks again.
            logger.warning("whether user %s may still hear %s could not be asked", user_id, topic, exc_info=answer)
            return
        if isinstance(answer, Exception):
            # What the hook asks about may be gone.
            text = "whether user %s may still hear %s could not be decided"
            _log.exception("may_subscribe", answer, text, user_id, topic)
            code, detail = "failed", "it could not be decided whether this user may hear the topic"
        for hearer in self._hearers_of(user_id):
            hearer.revoke(topic, code, detail)
