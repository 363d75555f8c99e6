"""Families of topics: their patterns, who may hear them, what is kept."""

import asyncio
import hashlib
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from hypothesis import example, given
from hypothesis import strategies as st

from project.demo.topics import News
from realtime import topics
from realtime.broker.history import HistoryPolicy
from realtime.topics import Topic, UserTopic, history_of, may_subscribe, resolve, user_topic

ALICE = User(pk=42, username="alice")


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test declares is forgotten after it."""
    monkeypatch.setattr(topics, "_families", list(topics._families))
    yield
    topics._resolve.cache_clear()


def test_a_pattern_takes_djangos_path_converters() -> None:
    """Parameters come converted, as a view gets them; what a converter does not take is no topic of the family."""

    class Vehicle(Topic):
        pattern = "test.vehicles.<slug:feed>.<int:line>"

    match = resolve("test.vehicles.s-bahn.12")
    assert match is not None
    assert match.family is Vehicle
    assert match.parameters == {"feed": "s-bahn", "line": 12}
    for name in ("test.vehicles.s-bahn.x", "test.vehicles..12", "test.vehicles.s.bahn.12", "xtest.vehicles.a.1"):
        assert resolve(name) is None


def test_what_is_around_a_parameter_is_taken_as_it_is() -> None:
    """A dot in a pattern is a dot."""

    class Dotted(Topic):
        pattern = "test.d.<uuid:key>"

    key = uuid.uuid4()
    match = resolve(f"test.d.{key}")
    assert match is not None
    assert match.parameters == {"key": key}
    assert resolve(f"testxd.{key}") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "news.to day",
        "news.today\n",
        "news.ü",
        "news/today",
        "news.<x>",
        "x" * 100,
        "news.\x00",
        "NEWS.today",
        "a",
    ],
)
def test_bad_names_belong_to_nobody(name: str) -> None:
    """What Channels would not take as a group, what is too long, and what nobody declares."""
    assert resolve(name) is None


def test_the_first_family_that_matches_decides() -> None:
    """In the order of declaration."""

    class Narrow(Topic):
        pattern = "test.first.x"

    class Wide(Topic):
        pattern = "test.first.<str:anything>"

    assert resolve("test.first.x").family is Narrow  # type: ignore[union-attr]
    assert resolve("test.first.y").family is Wide  # type: ignore[union-attr]


def test_a_family_is_declared_once() -> None:
    """A second one with the same pattern would never be asked, so it is refused where it is written."""
    with pytest.raises(ValueError, match=r"news\.<slug:name>"):

        class Again(Topic):
            pattern = "news.<slug:name>"


def test_a_base_without_a_pattern_is_no_family() -> None:
    """Families may share what they have in common."""

    class ForStaff(Topic):
        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            return bool(user.is_staff)

    class Alerts(ForStaff):
        pattern = "test.alerts"

    match = resolve("test.alerts")
    assert match is not None
    assert match.family is Alerts
    assert asyncio.run(may_subscribe(match, User(is_staff=True)))
    assert not asyncio.run(may_subscribe(match, ALICE))


@pytest.mark.parametrize("pattern", ["test.<nonsense:x>", "test.<int:x", "test.x>", "test.<int x>", "<slug:a b>"])
def test_a_broken_pattern_says_so_when_it_is_declared(pattern: str) -> None:
    """Not when the first client asks."""
    with pytest.raises(ValueError, match="topic pattern"):
        type("Broken", (Topic,), {"pattern": pattern})


def test_nobody_may_hear_a_family_that_does_not_say_who() -> None:
    """Closed until it is opened."""

    class Closed(Topic):
        pattern = "test.closed"

    match = resolve("test.closed")
    assert match is not None
    assert asyncio.run(may_subscribe(match, User(is_superuser=True))) is False


def test_a_sync_hook_runs_in_a_thread_and_an_async_one_does_not() -> None:
    """A slow one may wait without holding up the sockets; a coroutine is never taken for a yes."""
    here = threading.get_ident()
    seen: list[bool] = []

    class Sync(Topic):
        pattern = "test.sync.<int:n>"

        def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            seen.append(threading.get_ident() == here)
            return bool(parameters["n"] == 1)

    class Async(Topic):
        pattern = "test.async.<int:n>"

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            seen.append(threading.get_ident() == here)
            return bool(parameters["n"] == 1)

    class Disguised(Topic):
        pattern = "test.disguised.<int:n>"

        def may_subscribe(self, user: Any, **parameters: Any) -> Any:
            async def answer() -> bool:
                return bool(parameters["n"] == 1)

            return answer()

    async def ask(name: str) -> bool:
        match = resolve(name)
        assert match is not None
        return await may_subscribe(match, ALICE)

    for kind in ("sync", "async", "disguised"):
        assert asyncio.run(ask(f"test.{kind}.1")) is True
        assert asyncio.run(ask(f"test.{kind}.2")) is False
    assert seen == [False, False, True, True]


def test_a_users_topic_is_theirs_alone() -> None:
    """Whatever their key is made of."""
    match = resolve(user_topic(42))
    assert match is not None
    assert asyncio.run(may_subscribe(match, ALICE))
    for other in (User(pk=43), User(pk=420), User(pk=None), AnonymousUser()):
        assert not asyncio.run(may_subscribe(match, other))
    key = uuid.uuid4()
    match = resolve(user_topic(key))
    assert match is not None
    assert asyncio.run(may_subscribe(match, User(pk=key)))


KEYS = st.one_of(
    st.text(min_size=1), st.text("aB1._-é@", min_size=1, max_size=4), st.text("aé", min_size=60, max_size=120)
)


@pytest.mark.parametrize(
    ("key", "topic"),
    [
        (42, "user.42"),
        (-1, "user.-1"),
        (2**63 - 1, "user.9223372036854775807"),
        (uuid.UUID(int=1), "user.00000000-0000-0000-0000-000000000001"),
        ("plain_name.1-x", "user.plain_name.1-x"),
        ("x" * 94, f"user.{'x' * 94}"),
        ("alice@example.com", "user..alice_40example.com"),
        ("a_b@c", "user..a_5Fb_40c"),
        (".hidden", "user.._2Ehidden"),
        ("é", "user.._C3_A9"),
        ("", "user.."),
    ],
)
def test_a_users_topic_shows_the_key(key: object, topic: str) -> None:
    """Unchanged if a topic may contain it. The topics are part of the protocol, so they must not change."""
    assert user_topic(key) == topic


@given(st.lists(KEYS, max_size=20))
@example(["a@b", ".a_40b", "a_40b", "..a_40b"])
@example(["x" * 95, "x" * 94, hashlib.sha256(b"x" * 95).hexdigest(), f"..{hashlib.sha256(b'x' * 95).hexdigest()}"])
def test_every_user_has_a_topic_of_their_own(keys: list[str]) -> None:
    """Any key gives a topic that belongs to the family and to no other user."""
    topics = {key: user_topic(key) for key in keys}
    assert len(set(topics.values())) == len(topics)
    for key, topic in topics.items():
        match = resolve(topic)
        assert match is not None
        assert match.family is UserTopic
        assert asyncio.run(may_subscribe(match, User(pk=key)))
        assert not asyncio.run(may_subscribe(match, User(pk=f"{key}x")))


def test_nobody_is_no_user_of_that_name() -> None:
    """A visitor who is not signed in has no key, but "None" could be a user's key."""
    match = resolve(user_topic("None"))
    assert match is not None
    assert not asyncio.run(may_subscribe(match, AnonymousUser()))


def test_the_demo_declares_news_for_everybody_who_is_signed_in() -> None:
    """Found in the app's topics.py."""
    match = resolve("news.today")
    assert match is not None
    assert match.family is News
    assert asyncio.run(may_subscribe(match, ALICE))
    assert not asyncio.run(may_subscribe(match, AnonymousUser()))


def test_a_family_says_what_is_kept_of_it(settings: Any) -> None:
    """Or the settings do."""
    policy = HistoryPolicy(size=7, age_seconds=60.0)

    class Kept(Topic):
        pattern = "test.kept"
        history = policy

    assert history_of(resolve("test.kept")) == policy
    settings.REALTIME = {**settings.REALTIME, "HISTORY_SIZE": 11, "HISTORY_SECONDS": 12.0}
    assert history_of(resolve("news.today")) == HistoryPolicy(size=11, age_seconds=12.0)
