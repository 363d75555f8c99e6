"""What is wrong is said in words, with what to do; what is ok is not mentioned."""

import datetime
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from notifications.statistics.figures import Balance, Funnel, Process, Rows, TransportFigures
from notifications.statistics.notices import Facts, Progress, RedisMemory, find_notices, read_memory
from realtime.redis import clients
from realtime.streams.status import GroupStatus
from tests.support.redis_server import RedisServer

NOW = datetime.datetime(2026, 3, 30, 12, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)


def group(name: str = "relay", **figures: Any) -> GroupStatus:
    """A group without work and without trouble, except for these figures."""
    idle: dict[str, Any] = {
        **dict.fromkeys(("lag", "pending", "delayed", "standing", "dead", "finished"), 0),
        **{"consumers": 1, "workers": 1, "oldest_seconds": None},
    }
    return GroupStatus(name=name, **{**idle, **figures})


def process(role: str, seen_seconds_ago: float, *, is_alive: bool = False) -> Process:
    seen_at = NOW - seen_seconds_ago * SECOND
    return Process(name="host:1", role=role, started_at=NOW, seen_at=seen_at, is_alive=is_alive, now={})


def facts(**changes: Any) -> Facts:
    """A system without trouble, except for these facts."""
    rows = Rows(
        **{"since": NOW, "counted_at": NOW, "is_complete": True, "funnel": Funnel()},
        **{"points": (), "kinds": (), "transports": ()},
    )
    well = Facts(
        **{"now": NOW, "redis_error": "", "memory": None, "groups": (group("relay"), group("bot"))},
        **{"standstill_seconds": {}, "rows": rows, "balances": (), "processes": ()},
        **{"retrying": {}, "outbox_overdue": 0, "scheduled_overdue": 0},
    )
    return replace(well, **changes)


def keys_of(**changes: Any) -> list[str]:
    return [notice.key for notice in find_notices(facts(**changes))]


def test_nothing_is_said_of_a_system_that_is_well() -> None:
    """With workers, some entries in flight, retries, and processes that were seen."""
    groups = (group("relay", lag=5, pending=3, oldest_seconds=1.0), group("bot", delayed=4, oldest_seconds=9_000.0))
    processes = (process("relay and bot", 0.5, is_alive=True), process("bot", 900.0), process("web", 900.0))
    balance = Balance(name="browsers", accepted=8, delivered=5, failed=1, skipped=0, in_progress=2)
    assert keys_of(groups=groups, processes=processes, balances=(balance,)) == []


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"redis_error": "refused", "groups": ()}, "redis_unavailable", "Redis is unavailable: refused. Not"),
        # As redis-py ends its sentences.
        ({"redis_error": "refused.", "groups": ()}, "redis_unavailable", "Redis is unavailable: refused. Not"),
        ({"groups": (group("bot", workers=0),)}, "no_consumer", "No bot runs: no mail, chat message or webhook"),
        ({"groups": (group("mine", workers=0),)}, "no_consumer", "No mine runs: its work is not done."),
        ({"groups": (group("relay", dead=1),)}, "dead_letters", "The relay has given up 1 entry."),
        ({"groups": (group("bot", dead=2000),)}, "dead_letters", "The bot has given up 2,000 entries."),
        (
            {"groups": (group("relay", standing=2, oldest_seconds=600.0),)},
            "stuck_group",
            "The relay has 2 stuck keys: its oldest unfinished entry is 10 min old.",
        ),
        (
            {"groups": (group("relay", standing=1, oldest_seconds=600.0),)},
            "stuck_group",
            "The relay has 1 stuck key: its oldest",
        ),
        (
            {"groups": (group("bot", lag=7, pending=2),), "standstill_seconds": {"bot": 240.0}},
            "stuck_group",
            "The bot is stuck: 9 entries wait, and none has been finished for 4 min.",
        ),
        (
            {
                "groups": (group("relay", workers=0, lag=7), group("bot", workers=0)),
                "processes": (process("bot", 61.0),),
            },
            "no_consumer",
            "No relay and no bot run: browsers get no notifications, and no mail, chat message or webhook is sent. "
            "7 entries wait. The last one, host:1, was seen 1 min ago.",
        ),
        (
            {"rows": replace(facts().rows, transports=(TransportFigures(transport="email", sent=1, failed=8),))},
            "transport_fails",
            "email: 8 of the 9 deliveries that have ended have failed.",
        ),
        (
            {"retrying": {"email": 6, "chat": 4}},
            "transport_retries",
            "email: at least 6 deliveries have failed and wait for another attempt.",
        ),
        ({"scheduled_overdue": 1}, "scheduled_overdue", "1 event is overdue: it has not been released."),
        ({"outbox_overdue": 3}, "outbox_overdue", "3 events wait in the outbox, and nobody publishes them."),
        (
            {"memory": RedisMemory(policy="allkeys-lru", limit_bytes=1, evicted_count=0)},
            "redis_evicts",
            "Redis may remove our keys when its memory is full: its maxmemory-policy is allkeys-lru.",
        ),
        (
            {"memory": RedisMemory(policy="allkeys-lru", limit_bytes=1, evicted_count=5)},
            "redis_evicted",
            "Redis was out of memory and has removed 5 keys",
        ),
        (
            {"balances": (Balance(name="browsers", accepted=9, delivered=5, failed=1, skipped=0, in_progress=2),)},
            "balance",
            "1 notification to browsers is lost: no process will handle it.",
        ),
        (
            {"balances": (Balance(name="email", accepted=9, delivered=5, failed=1, skipped=0, in_progress=1),)},
            "balance",
            "2 deliveries by email are lost: no process will handle them.",
        ),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], key: str, words: str) -> None:
    """In one sentence, with advice."""
    (first, *_) = found = find_notices(facts(**changes))
    assert first.key == key
    assert first.what.startswith(words)
    assert first.advice.endswith(".")
    assert all(notice.is_urgent for notice in found)


def test_advice_comes_last() -> None:
    """Hours that are not counted yet are no emergency."""
    rows = replace(facts().rows, is_complete=False)
    found = find_notices(facts(rows=rows, outbox_overdue=1))
    assert [(notice.key, notice.is_urgent) for notice in found] == [("outbox_overdue", True), ("not_counted", False)]


@pytest.mark.parametrize(
    ("role", "about"), [("relay and bot", ["bot", "relay"]), ("bot", ["bot"]), ("relay", ["relay"])]
)
def test_a_part_that_works_unseen_pushes_no_counters(role: str, about: list[str]) -> None:
    """Its workers are alive, so nothing is missing but its figures. Without workers, that alone is said."""
    processes = (process(role, 61.0),)
    found = find_notices(facts(processes=processes))
    assert [(notice.key, notice.is_urgent) for notice in found] == [(f"{part}_not_seen", False) for part in about]
    assert [notice.about for notice in found] == about
    assert found[0].what == (
        f"The {about[0]} works, but no process of it pushes its counters. The last one, host:1, was seen 1 min ago."
    )
    assert all("STATISTICS" in notice.advice and "Start " not in notice.advice for notice in found)
    groups = (group("relay", workers=0), group("bot", workers=0))
    assert keys_of(processes=processes, groups=groups) == ["no_consumer"]
    assert keys_of(processes=processes, groups=()) == []


def test_evicted_keys_are_not_urgent_once_the_advice_was_followed() -> None:
    """Redis counts them until it restarts or is told to forget them."""
    memory = RedisMemory(policy="noeviction", limit_bytes=1, evicted_count=1)
    (found,) = find_notices(facts(memory=memory))
    assert (found.key, found.is_urgent) == ("redis_evicted", False)
    assert "has removed 1 key since" in found.what
    assert "CONFIG RESETSTAT" in found.advice


@pytest.mark.parametrize("policy", ["noeviction", ""])
def test_a_limit_without_eviction_is_well(policy: str) -> None:
    """Redis then refuses to write, and events stay in the outbox. Nor does a policy matter without a limit."""
    assert keys_of(memory=RedisMemory(policy=policy, limit_bytes=1, evicted_count=0)) == []
    assert keys_of(memory=RedisMemory(policy="allkeys-lru", limit_bytes=0, evicted_count=0)) == []


def test_a_short_repair_is_no_stuck_key() -> None:
    """Workers take over the keys of a dead one within a lease."""
    assert keys_of(groups=(group(standing=2, oldest_seconds=40.0),)) == []


def test_standing_still_is_to_finish_nothing_while_there_is_work() -> None:
    """It is measured from the first look on; whatever is finished, or having no work or no workers, ends it."""
    progress = Progress()
    busy = group(lag=5, pending=1, finished=10)
    assert progress.observe([busy], NOW) == {}
    assert progress.observe([replace(busy, lag=50)], NOW + 60 * SECOND) == {"relay": 60.0}
    assert progress.observe([replace(busy, finished=11)], NOW + 90 * SECOND) == {}
    assert progress.observe([replace(busy, finished=11)], NOW + 95 * SECOND) == {"relay": 5.0}
    for other in (group(finished=11), replace(busy, workers=0, finished=11), replace(busy, dead=1, finished=10)):
        assert progress.observe([other], NOW + 100 * SECOND) == {}
    assert progress.observe([replace(busy, finished=None)], NOW + 200 * SECOND) == {}
    assert progress.observe([replace(busy, finished=None)], NOW + 300 * SECOND) == {}


@pytest.fixture
def small_redis() -> Iterator[redis.Redis]:
    with RedisServer() as server, clients.publisher(server.url) as client:
        yield client


@pytest.mark.database_independent
def test_a_redis_that_evicts_says_so(small_redis: redis.Redis) -> None:
    """It has a limit and a policy, and counts the keys that it removes. The user need not be allowed CONFIG."""
    assert read_memory(small_redis) == RedisMemory(policy="noeviction", limit_bytes=0, evicted_count=0)
    small_redis.config_set("maxmemory-policy", "allkeys-random")
    small_redis.set("key", "x" * 10_000)
    small_redis.config_set("maxmemory", "1")
    small_redis.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], commands=["-config"])
    with pytest.raises(redis.ResponseError):
        small_redis.set("another", "x")
    found = read_memory(small_redis)
    assert (found.policy, found.limit_bytes) == ("allkeys-random", 1)
    assert found.evicted_count >= 1
