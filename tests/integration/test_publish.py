"""Publishing on topics, from code: what arrives, what is kept, what is refused."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Position, Publication
from realtime.broker.publish import Published, PublishRequest
from realtime.exceptions import PublicationTooLarge, TopicUnknown, Unavailable
from realtime.publisher import DATA_LIMIT_BYTES, apublish, publish, publish_many
from realtime.redis import clients
from tests.integration.hearing import Ear, layer
from tests.support.redis_server import RedisServer
from tests.support.waiting import is_done_within

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]


def publish_as(topic: str, data: bytes, policy: HistoryPolicy, **options: Any) -> Published:
    result: Published = layer().publish_now(PublishRequest(topic, data, policy, **options))
    return result


def commands_seen(server: RedisServer, work: Callable[[], object]) -> list[str]:
    """The names of the commands that clients sent while `work` ran, those within scripts left out."""
    names: list[str] = []
    with redis.Redis.from_url(server.url) as client, client.monitor() as monitor:
        work()
        client.echo("end")
        while True:
            command = monitor.next_command()
            name = command["command"].split()[0].upper()
            if name == "ECHO":
                return names
            # What a client says when it connects is not what is counted.
            if command["client_type"] != "lua" and name not in ("CLIENT", "HELLO", "PING"):
                names.append(name)


# What arrives and what is kept ----------------------------------------------------------------------------------------


def test_a_publication_has_the_next_offset_and_is_heard_and_kept(
    ear: Callable[[str], Ear], kept: Callable[[str], list[Publication]]
) -> None:
    """Offsets count from 1 in one epoch; what is heard, what is kept and what is returned are the same."""
    listener = ear("news.today")
    published = [publish("news.today", {"headline": f"{number} Züge"}) for number in range(3)]
    assert [each.position.offset for each in published] == [1, 2, 3]
    assert len({each.position.epoch for each in published}) == 1
    assert {(each.receiver_count, each.is_repeat) for each in published} == {(1, False)}
    heard = listener.hear(3)
    assert [each.position for each in heard] == [each.position for each in published]
    assert kept("news.today") == heard
    assert json.loads(heard[1].frame) == {
        "type": "message",
        "topic": "news.today",
        "offset": 2,
        "data": {"headline": "1 Züge"},
    }
    assert publish("news.sport", 1).position.offset == 1, "each topic counts by itself"


@pytest.mark.parametrize(
    "text",
    [
        '{"b": 1.50, "a" : [ 1e3, 12345678901234567890 ],  "\\u00e9": "\\/"}',
        "  [1, 2]  ",
        '"ünïcödé \U0001f600"',
        "null",
        "-0.0",
    ],
)
def test_json_text_goes_out_as_it_came_in(kept: Callable[[str], list[Publication]], text: str) -> None:
    """Byte for byte: numbers, escapes and spaces are not touched; it is spliced, never encoded again."""
    publish("news.today", text.encode())
    (publication,) = kept("news.today")
    assert publication.frame == b'{"type":"message","topic":"news.today","offset":1,"data":%b}' % text.encode()


def test_line_breaks_between_json_tokens_do_not_break_the_frame(kept: Callable[[str], list[Publication]]) -> None:
    """A frame is one line; what is said stays the same."""
    publish("news.today", b'{\r\n  "a": "x\\ny",\n  "b": 2\n}')
    (publication,) = kept("news.today")
    assert b"\n" not in publication.frame
    assert b"\r" not in publication.frame
    assert json.loads(publication.frame)["data"] == {"a": "x\ny", "b": 2}


def test_python_values_are_said_in_json(kept: Callable[[str], list[Publication]]) -> None:
    """Dates too."""
    publish("news.42", {"at": datetime(2026, 11, 21, 12, tzinfo=UTC), "done": True, "what": None})
    (publication,) = kept("news.42")
    assert json.loads(publication.frame)["data"] == {"at": "2026-11-21T12:00:00Z", "done": True, "what": None}


async def test_the_async_twin_does_the_same() -> None:
    """`apublish` counts on, and refuses the same things."""
    first = await apublish("news.today", {"a": 1})
    second = await apublish("news.today", {"a": 1}, idempotency_key="x")
    third = await apublish("news.today", {"a": 1}, idempotency_key="x")
    assert [each.position.offset for each in (first, second, third)] == [1, 2, 2]
    assert third.is_repeat
    with pytest.raises(TopicUnknown):
        await apublish("weather.today", 1)


def test_many_are_published_in_order(ear: Callable[[str], Ear], kept: Callable[[str], list[Publication]]) -> None:
    """Over several round trips, topics mixed: each topic's are in the order given."""
    listener = ear("news.even")
    published = publish_many((f"news.{('even', 'odd')[number % 2]}", number) for number in range(1_300))
    assert [each.position.offset for each in published] == [number // 2 + 1 for number in range(1_300)]
    assert [json.loads(each.frame)["data"] for each in listener.hear(650)] == list(range(0, 1_300, 2))
    assert [json.loads(each.frame)["data"] for each in kept("news.odd")] == list(range(1_101, 1_300, 2))


def test_a_thousand_topics(redis_client: redis.Redis) -> None:
    """Each has its own counter."""
    for turn in (1, 2):
        published = publish_many((f"news.topic-{number}", number) for number in range(1_000))
        assert {each.position.offset for each in published} == {turn}
    names = [layer().keys.topic_position(f"news.topic-{number}") for number in range(1_000)]
    assert redis_client.exists(*names) == 1_000


def test_publishers_at_once_share_the_counter_without_a_hole() -> None:
    """Threads of a web server that publish at the same time get each offset once."""

    def work(_: int) -> list[int]:
        return [publish("news.today", 1).position.offset for _ in range(50)]

    with ThreadPoolExecutor(8) as threads:
        offsets = sorted(offset for part in threads.map(work, range(8)) for offset in part)
    assert offsets == list(range(1, 401))


def test_history_is_kept_by_count(kept: Callable[[str], list[Publication]]) -> None:
    """The newest ones; none at all if a topic wants none, which is still counted and heard."""
    for number in range(10):
        publish_as("news.today", b"%d" % number, HistoryPolicy(size=3))
        publish_as("news.live", b"%d" % number, HistoryPolicy(size=0))
    assert [each.position.offset for each in kept("news.today")] == [8, 9, 10]
    assert kept("news.live") == []
    assert publish("news.live", 1).position.offset == 11


def test_history_is_kept_by_age(redis_client: redis.Redis) -> None:
    """It lives as long as its topic says, the counter for a day, or longer if the history does."""
    keys = layer().keys
    publish_as("news.today", b"1", HistoryPolicy(age_seconds=90.0))
    assert 80 < redis_client.ttl(keys.topic_history("news.today")) <= 90
    assert 86_000 < redis_client.ttl(keys.topic_position("news.today")) <= 86_400
    publish_as("news.archive", b"1", HistoryPolicy(age_seconds=1_000_000.0))
    assert redis_client.ttl(keys.topic_position("news.archive")) > 999_000


def test_a_counter_that_begins_anew_has_another_epoch_and_no_old_history(
    redis_client: redis.Redis, kept: Callable[[str], list[Publication]]
) -> None:
    """Offsets are unique together with the epoch, also when only the counter is lost."""
    first = publish("news.today", "old")
    redis_client.delete(layer().keys.topic_position("news.today"))
    second = publish("news.today", "new")
    assert first.position.offset == second.position.offset == 1
    assert first.position.epoch != second.position.epoch
    assert [json.loads(each.frame)["data"] for each in kept("news.today")] == ["new"]


def test_an_idempotency_key_counts_once(
    redis_client: redis.Redis, kept: Callable[[str], list[Publication]], ear: Callable[[str], Ear]
) -> None:
    """A repeat is told where the first one stands, and does nothing; the key is the topic's own, and expires."""
    listener = ear("news.today")
    first = publish("news.today", "a", idempotency_key="job-7:é")
    between = publish("news.today", "b")
    again = publish("news.today", "c", idempotency_key="job-7:é")
    assert (again.position, again.is_repeat, again.receiver_count) == (first.position, True, 0)
    assert (first.is_repeat, between.is_repeat) == (False, False)
    assert not publish("news.sport", "d", idempotency_key="job-7:é").is_repeat
    assert [json.loads(each.frame)["data"] for each in kept("news.today")] == ["a", "b"]
    assert [json.loads(each.frame)["data"] for each in listener.hear(2)] == ["a", "b"]
    assert 290 < redis_client.ttl(layer().keys.topic_idempotency("news.today", "job-7:é")) <= 300


# What it costs --------------------------------------------------------------------------------------------------------


def test_one_publication_is_one_round_trip(own_redis: RedisServer) -> None:
    """One command, whatever a publication brings with it; the script's text goes along only the first time."""
    assert commands_seen(own_redis, lambda: publish("news.today", 1)) == ["EVALSHA", "EVAL"]
    assert commands_seen(own_redis, lambda: publish("news.today", 1)) == ["EVALSHA"]
    assert commands_seen(own_redis, lambda: publish("news.today", 1, idempotency_key="x")) == ["EVALSHA"]


def test_many_publications_are_one_call_for_fifty_and_one_round_trip_for_five_hundred(own_redis: RedisServer) -> None:
    """Nothing is asked of the server before: the first call of a round trip brings the script."""
    commands = commands_seen(own_redis, lambda: publish_many([("news.today", 1)] * 551))
    assert commands == ["EVAL", *["EVALSHA"] * 9, "EVAL", "EVALSHA"]


def test_publishing_opens_one_connection(own_redis: RedisServer) -> None:
    """A pool of the process: not one a call, as `async_to_sync(group_send)` makes them."""
    publish("news.today", 1)
    with clients.publisher(own_redis.url) as client:
        before = client.info("stats")["total_connections_received"]
        for _ in range(20):
            publish("news.today", 1)
        assert client.info("stats")["total_connections_received"] == before


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic", ["", "news", "news.", "news.a b", "news.a\n", "weather.today", "NEWS.today", "x" * 200]
)
def test_an_unknown_topic_is_refused(topic: str) -> None:
    """A misspelt name would be heard by nobody."""
    with pytest.raises(TopicUnknown, match="no app declares"):
        publish(topic, 1)
    with pytest.raises(TopicUnknown):
        publish_many([("news.today", 1), (topic, 1)])


def test_what_is_too_large_is_refused(kept: Callable[[str], list[Publication]]) -> None:
    """At the limit it goes, one byte beyond it does not."""
    publish("news.today", b'"%b"' % (b"x" * (DATA_LIMIT_BYTES - 2)))
    for data in (b'"%b"' % (b"x" * (DATA_LIMIT_BYTES - 1)), "x" * DATA_LIMIT_BYTES):
        with pytest.raises(PublicationTooLarge, match="the limit is 65536") as refused:
            publish("news.today", data)
        assert refused.value.limit_bytes == DATA_LIMIT_BYTES
    assert len(kept("news.today")) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b"1 2",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"a\nb"',
        object(),
        {1, 2},
        "\ud800",
    ],
)
def test_what_is_no_json_is_refused(data: Any, redis_client: redis.Redis) -> None:
    """It would end the connection of everybody who hears the topic; nothing of a batch is published either."""
    if data == {1, 2}:
        # A set is an array to msgspec, which is fine.
        assert publish("news.today", data).position.offset == 1
        return
    with pytest.raises((TypeError, ValueError)):
        publish("news.today", data)
    with pytest.raises((TypeError, ValueError)):
        publish_many([("news.today", 1), ("news.today", data)])
    assert not redis_client.exists(layer().keys.topic_position("news.today"))


def test_without_offsets_nothing_is_published(settings: Any) -> None:
    """On another channel layer it is said what to do."""
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with pytest.raises(ImproperlyConfigured, match=r"realtime\.layer\.RedisChannelLayer"):
        publish("news.today", 1)


@pytest.mark.parametrize("values", [{"size": -1}, {"age_seconds": 0.0}, {"age_seconds": -1.0}])
def test_a_history_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    """Where it is declared, not when something is published."""
    with pytest.raises(ValueError, match="a history has a size"):
        HistoryPolicy(**values)


# When Redis is away ---------------------------------------------------------------------------------------------------


def test_redis_being_away_is_said_at_once_and_its_return_needs_nothing(own_redis: RedisServer) -> None:
    """Gone: at once. Back: the next call works, on a pool full of dead connections."""
    publish("news.today", 1)
    own_redis.kill()

    def fail() -> None:
        for call in (lambda: publish("news.today", 1), lambda: publish_many([("news.today", 1)])):
            with pytest.raises(Unavailable, match=r"publishing on news.today failed .*: it is not retried"):
                call()

    assert is_done_within(1.0, fail)
    own_redis.start()
    assert publish("news.today", 1).position.offset == 1


async def test_the_async_twin_says_so_too(own_redis: RedisServer) -> None:
    """Likewise on an event loop."""
    await apublish("news.today", 1)
    own_redis.kill()
    with pytest.raises(Unavailable):
        await apublish("news.today", 1)
    own_redis.start()
    assert (await apublish("news.today", 1)).position.offset == 1


async def test_a_redis_that_hangs_is_given_up_after_two_seconds(own_redis: RedisServer) -> None:
    """Nobody who waits for a page waits longer; and nothing is published twice when it wakes up."""
    publish("news.today", 1)
    await apublish("news.today", 1)
    own_redis.pause()
    try:
        for call in (publish, apublish):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                if (pending := call("news.today", 1)) is not None and not isinstance(pending, Published):
                    await pending
            # By default redis-py waits for five seconds, ten times.
            assert 1.5 < time.monotonic() - began < 10
    finally:
        own_redis.resume()
    # At most once each: what the paused server had in its socket, it may have run by now.
    assert publish("news.today", 1).position.offset in (3, 4, 5)


def test_positions_are_compared_by_value() -> None:
    """What `publish` returns can be given to a client to come back with."""
    published = publish("news.today", 1)
    assert published.position == Position(1, published.position.epoch)
