"""
Families of topics: their names, who may subscribe, and how much history is kept.

Owns the registry: each app's `topics.py` declares `Topic` subclasses, and is found as the admin finds `admin.py`. Does
not own subscriptions (hub) nor publishing (publisher).
"""

import asyncio
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, ClassVar

from asgiref.sync import iscoroutinefunction
from channels.db import database_sync_to_async
from django.contrib.auth.models import AbstractBaseUser
from django.urls.converters import get_converters

from realtime.broker.history import HistoryPolicy
from realtime.broker.snapshot import Snapshot
from realtime.conf import get_settings
from realtime.live.filters import Filter
from realtime.live.places import Tiles
from realtime.live.views import Family

__all__ = [
    "Snapshot",
    "Tiles",
    "Topic",
    "TopicMatch",
    "UserTopic",
    "filter_for",
    "history_of",
    "live_family",
    "may_follow",
    "may_receive",
    "may_subscribe",
    "may_subscribe_all",
    "resolve",
    "resolve_family",
    "user_topic",
]

# A permission hook that takes longer than this has failed.
PERMISSION_TIMEOUT_SECONDS = 10.0
# How many async hooks run at a time, and how many sync hooks one thread runs in turn.
PERMISSIONS_AT_A_TIME = 16
# How many threads run sync hooks at a time.
PERMISSION_THREADS = 4


# A topic is also a channel-layer group, and Channels accepts no other names.
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,99}")
# How many characters a user's key may have after "user.".
_KEY_CHARACTERS = 94
# A key that can be part of a topic unchanged.
_PLAIN_KEY = re.compile(rf"(?!\.)[A-Za-z0-9_.\-]{{1,{_KEY_CHARACTERS}}}")
# The bytes of other keys that are escaped: those that a topic may not contain, a dot at the beginning, and "_", which
# begins an escape.
_ESCAPED = re.compile(rb"[^A-Za-z0-9.\-]|\A\.")
_PARAMETER = re.compile(r"<(?:(?P<converter>\w+):)?(?P<name>\w+)>")

# In order of declaration; the first match counts.
_families: list[type["Topic"]] = []


def _compile(pattern: str) -> tuple[re.Pattern[str], dict[str, Any]]:
    known = get_converters()
    converters: dict[str, Any] = {}
    text, end = "", 0
    for parameter in _PARAMETER.finditer(pattern):
        name, converter = parameter["name"], known.get(parameter["converter"] or "str")
        if converter is None:
            raise ValueError(f"the topic pattern {pattern!r} uses an unknown path converter {parameter['converter']!r}")
        converters[name] = converter
        text += re.escape(pattern[end : parameter.start()]) + f"(?P<{name}>{converter.regex})"
        end = parameter.end()
    rest = pattern[end:]
    if "<" in rest or ">" in rest:
        raise ValueError(f"the topic pattern {pattern!r} has a parameter that is not <converter:name>")
    return re.compile(text + re.escape(rest)), converters


class Topic:
    """
    A family of topics. Subclass it in an app's `topics.py`::

        class News(Topic):
            pattern = "news.<slug:name>"

            def may_subscribe(self, user, name):
                return user.is_authenticated

    Attributes:
        pattern: A name with Django's path converters, e.g. "vehicles.<slug:feed>".
        history: What Redis keeps so that clients can resume; REALTIME's HISTORY_SIZE and HISTORY_SECONDS by default.
        is_rechecked: Whether `may_subscribe` is called again while a connection is subscribed. False saves these calls
            if no user can lose the permission.
        family_name: The name of the family, made from `pattern`: "vehicles.*".
        snapshot: How much of the topic's state Redis keeps. With it, each publication has a key, and a client may
            subscribe with a filter: it gets the newest publication of each key, and then the changes.
        places: `Tiles()`, if publications have a place that filters can use.
        check_data: A static method that is called with the JSON of each publication, as bytes, before it is published.
            To refuse it, raise a ValueError whose text says what is wrong.
    """

    pattern: ClassVar[str]
    family_name: ClassVar[str]
    history: ClassVar[HistoryPolicy | None] = None
    is_rechecked: ClassVar[bool] = True
    snapshot: ClassVar[Snapshot | None] = None
    places: ClassVar[Tiles | None] = None
    check_data: ClassVar[Callable[[bytes], object] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "pattern" not in cls.__dict__:
            # A common base of families, or a subclass that changes the behaviour of one: not a family of its own.
            return
        if any(family.pattern == cls.pattern for family in _families):
            raise ValueError(f"two topics have the pattern {cls.pattern!r}: the second would never be used")
        if cls.places is not None and cls.snapshot is None:
            raise ValueError(f"the topic {cls.pattern!r} has places, so it needs a snapshot: snapshot = Snapshot(…)")
        cls._regex, cls._converters = _compile(cls.pattern)
        cls.family_name = _PARAMETER.sub("*", cls.pattern)
        _families.append(cls)
        _resolve.cache_clear()

    def may_subscribe(self, user: AbstractBaseUser, **parameters: Any) -> Any:
        """
        Whether `user` may subscribe to the topic with these parameters. By default no user may.

        Sync or async. A sync one runs in a thread and may use the ORM. It is called when a connection subscribes. While
        the connection is subscribed, it is called again every REALTIME["RECHECK_SECONDS"], and at once after a change
        of the account, its groups or permissions, or after `realtime.access.permissions_changed()`.
        """
        return False

    def may_follow(self, user: AbstractBaseUser) -> Any:
        """
        Whether `user` may subscribe to all topics of this family at once, with a filter.

        Returns:
            True for all of them, False for none; None, as by default, to ask `may_subscribe` for each topic that comes
            into view. Sync or async, and called again, as `may_subscribe`.
        """
        return None

    def filter_for(self, user: AbstractBaseUser) -> Any:
        """
        The site's filter for `user` in this family. It applies in addition to the client's filter.

        Returns:
            A mapping as a client's filter, with "bbox" and "tags"; None for everything. A client's filter can only
            narrow it. Sync or async, and called again, as `may_subscribe`. Only a user for whom it returns None may
            subscribe without a filter.
        """
        return None

    _regex: ClassVar[re.Pattern[str]]
    _converters: ClassVar[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMatch:
    """The family of a topic, and the parameters from its name. Shared by all callers: never change it."""

    family: type[Topic]
    parameters: Mapping[str, Any]


def user_topic(user_id: object) -> str:
    """
    The topic of one user: `user.42`. Only that user's own connections are subscribed to it.

    Args:
        user_id: The primary key, or its text.

    Guarantees:
        Two users never have the same topic, and the topic of a user never changes. A key that a topic may contain is
        used unchanged, unless it begins with a dot. Any other key follows a dot, and each byte that a topic may not
        contain is written as `_` and two hexadecimal digits: `user..alice_40example.com`. If that is too long, the key
        is hashed.
    """
    text = str(user_id)
    return f"user.{text if _PLAIN_KEY.fullmatch(text) else _escaped_key(text)}"


def _escaped_key(text: str) -> str:
    escaped = _ESCAPED.sub(lambda found: b"_%02X" % found[0][0], text.encode()).decode()
    if len(escaped) < _KEY_CHARACTERS:
        return f".{escaped}"
    # After two dots: an escaped key never begins with a dot, so the two forms cannot collide.
    return f"..{hashlib.sha256(text.encode()).hexdigest()}"


def resolve(name: str) -> TopicMatch | None:
    """The family of a topic; None if no app declares one, or the name cannot be a topic's."""
    # Checked before it enters the cache: names come from clients and may be long.
    return _resolve(name) if _NAME.fullmatch(name) is not None else None


@functools.lru_cache(maxsize=4_096)
def _resolve(name: str) -> TopicMatch | None:
    for family in _families:
        match = family._regex.fullmatch(name)
        if match is None:
            continue
        try:
            parameters = {key: family._converters[key].to_python(text) for key, text in match.groupdict().items()}
        except ValueError:
            continue
        return TopicMatch(family=family, parameters=parameters)
    return None


def resolve_family(name: str) -> type[Topic] | None:
    """The family with this name, such as "vehicles.*"; None if there is none, or its pattern has no parameter."""
    if "*" not in name:
        return None
    return next((family for family in _families if family.family_name == name), None)


class UserTopic(Topic):
    """The topic of one user: `user.42`. Each connection is subscribed to its own user's topic automatically."""

    pattern = "user.<str:user_id>"
    is_rechecked = False

    async def may_subscribe(self, user: AbstractBaseUser, **parameters: Any) -> bool:
        """Only this user may subscribe."""
        return user.pk is not None and user_topic(user.pk) == f"user.{parameters['user_id']}"


async def may_subscribe(match: TopicMatch, user: AbstractBaseUser) -> bool:
    """Ask the family's permission hook, off the event loop if it is sync; raises what the hook raises."""
    return bool(await _call(match.family().may_subscribe, user, **match.parameters))


async def may_receive(match: TopicMatch, user: AbstractBaseUser) -> bool:
    """Whether the user may subscribe to the topic without a filter, and so get all of it. As `may_subscribe`."""
    return await may_subscribe(match, user) and await filter_for(match.family, user) is None


async def may_follow(family: type[Topic], user: AbstractBaseUser) -> bool | None:
    """Whether the user may subscribe to all topics of a family; None if each must be asked. As `may_subscribe`."""
    if family.may_follow is Topic.may_follow:
        return None
    answer = await _call(family().may_follow, user)
    return None if answer is None else bool(answer)


async def filter_for(family: type[Topic], user: AbstractBaseUser) -> Filter | None:
    """
    The site's filter for the user in a family; None for everything. As `may_subscribe`.

    Raises:
        FrameRefused: It is not a filter.
    """
    if family.filter_for is Topic.filter_for:
        return None
    answer = await _call(family().filter_for, user)
    return None if answer is None else Filter.of(answer, (f"{family.__name__}.filter_for",))


async def _call(hook: Callable[..., Any], *arguments: Any, **parameters: Any) -> Any:
    """Call a hook of a project, in a thread if it is sync."""
    if iscoroutinefunction(hook):
        return await hook(*arguments, **parameters)
    # Not one thread for all: a slow hook of one family must not delay the connections of the others.
    answer = await database_sync_to_async(hook, thread_sensitive=False)(*arguments, **parameters)
    # A sync function that wraps an async one returns a coroutine, which would count as true.
    return await answer if isawaitable(answer) else answer


async def may_subscribe_all(questions: Sequence[tuple[TopicMatch, AbstractBaseUser]]) -> list[bool | Exception]:
    """
    Ask many permission hooks; the answers are in the order of the questions. If a hook raises, its answer is the error.

    Sync hooks share a few threads, because a thread and its database connection cost more than most answers.
    """
    answers: list[bool | Exception] = [False] * len(questions)

    async def ask(index: int) -> None:
        try:
            async with asyncio.timeout(PERMISSION_TIMEOUT_SECONDS):
                answers[index] = await may_subscribe(*questions[index])
        except Exception as error:
            answers[index] = error

    async def ask_in_thread(indexes: Sequence[int]) -> None:
        try:
            async with asyncio.timeout(PERMISSION_TIMEOUT_SECONDS):
                found = await database_sync_to_async(_ask_in_turn, thread_sensitive=False)(
                    [questions[index] for index in indexes]
                )
                for index, answer in zip(indexes, found, strict=True):
                    answers[index] = bool(await answer) if isawaitable(answer) else answer
        except Exception:
            # One of them is slow, or its awaitable fails: ask each alone, so that the others are not affected.
            await asyncio.gather(*map(ask, indexes))

    by_kind: dict[bool, list[int]] = {True: [], False: []}
    for index, (match, _) in enumerate(questions):
        by_kind[iscoroutinefunction(match.family.may_subscribe)].append(index)
    for group in itertools.batched(by_kind[True], PERMISSIONS_AT_A_TIME):
        await asyncio.gather(*map(ask, group))
    for groups in itertools.batched(itertools.batched(by_kind[False], PERMISSIONS_AT_A_TIME), PERMISSION_THREADS):
        await asyncio.gather(*map(ask_in_thread, groups))
    return answers


def _ask_in_turn(questions: Iterable[tuple[TopicMatch, AbstractBaseUser]]) -> list[Any]:
    answers: list[Any] = []
    for match, user in questions:
        try:
            answer = match.family().may_subscribe(user, **match.parameters)
            answers.append(answer if isawaitable(answer) else bool(answer))
        except Exception as error:
            answers.append(error)
    return answers


def history_of(match: TopicMatch | None) -> HistoryPolicy:
    """How much history Redis keeps of a topic. `match` is None for a topic that no app declares."""
    if match is not None and match.family.history is not None:
        return match.family.history
    settings = get_settings()
    return HistoryPolicy(size=settings.history_size, age_seconds=settings.history_seconds)


def live_family(family: type[Topic]) -> Family | None:
    """The facts about a family that filtered subscriptions need; None if it has no snapshot."""
    if family.snapshot is None:
        return None
    history = history_of(TopicMatch(family=family, parameters={}))

    def is_member(topic: str) -> bool:
        match = resolve(topic)
        return match is not None and match.family is family

    return Family(name=family.family_name, snapshot=family.snapshot, history=history, is_member=is_member)
