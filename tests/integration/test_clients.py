"""What a client may ask for and is answered: `signalbox.v1` on a real channel layer, Redis and database."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.contrib.auth.models import Group, User
from django.db import OperationalError

from notifications.models import Notification
from notifications.services import notify
from realtime import topics
from realtime.access import CHANNEL
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.messages import FRAME_LIMIT_BYTES
from realtime.publisher import apublish
from realtime.redis.outage import Outage
from realtime.statistics import collect
from realtime.topics import Topic
from realtime.websocket import client as sessions_module
from realtime.websocket.client import MALFORMED_LIMIT
from tests.integration.clients import Client, Connect, tell
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database_independent]


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test declares is forgotten after it."""
    monkeypatch.setattr(topics, "_families", list(topics._families))
    yield
    topics._resolve.cache_clear()


@pytest.fixture
async def client(connect: Connect, alice: User) -> Client:
    """Alice's connection, past its hello."""
    client = await connect(alice)
    await client.greeted()
    return client


async def said_nothing(client: Client) -> None:
    """Wait until all earlier objects are handled, and check that nothing was answered."""
    assert await client.answer(type="ping") == {"type": "pong"}


# Topics ---------------------------------------------------------------------------------------------------------------


async def test_a_client_hears_what_it_subscribes_to(client: Client) -> None:
    """From "subscribed" to "unsubscribed", and nothing outside of that."""
    await apublish("news.today", "too early")
    subscribed = await client.answer(type="subscribe", topic="news.today")
    assert {**subscribed, "epoch": ""} == {
        "type": "subscribed", "topic": "news.today", "offset": 1, "epoch": "", "recovered": False
    }  # fmt: skip
    await apublish("news.today", {"headline": "It works"})
    await apublish("news.other", "not asked for")
    assert await client.object() == {
        "type": "message", "topic": "news.today", "offset": 2, "data": {"headline": "It works"}
    }  # fmt: skip
    assert await client.answer(type="unsubscribe", topic="news.today") == {
        "type": "unsubscribed",
        "topic": "news.today",
    }
    await apublish("news.today", "too late")
    await said_nothing(client)
    assert await client.answer(type="unsubscribe", topic="never.asked") == {
        "type": "unsubscribed",
        "topic": "never.asked",
    }


async def test_a_topic_is_resumed_where_the_client_was(client: Client) -> None:
    """With offset and epoch; a second subscribe starts again from its position."""
    positions = [(await apublish("news.today", number)).position for number in range(5)]
    for offset in (positions[1].offset, positions[3].offset):
        subscribed = await client.answer(type="subscribe", topic="news.today", offset=offset, epoch=positions[0].epoch)
        assert (subscribed["offset"], subscribed["recovered"]) == (offset, True)
        missed = [await client.object() for _ in range(5 - offset)]
        assert [each["offset"] for each in missed] == list(range(offset + 1, 6))
    await apublish("news.today", "once")
    assert (await client.object())["data"] == "once"
    await said_nothing(client)


@pytest.mark.parametrize("given", [{"offset": 6}, {"offset": 2**53 - 1}])
async def test_a_position_that_is_not_known_is_not_recovered(client: Client, given: dict[str, Any]) -> None:
    """A position from the future: the client continues from the newest, and is told to read the state."""
    epochs = {(await apublish("news.today", number)).position.epoch for number in range(5)}
    (epoch,) = epochs
    subscribed = await client.answer(type="subscribe", topic="news.today", epoch=epoch, **given)
    assert (subscribed["offset"], subscribed["epoch"], subscribed["recovered"]) == (5, epoch, False)
    await apublish("news.today", "next")
    assert (await client.object())["offset"] == 6


@pytest.mark.parametrize("given", [{"epoch": "another"}, {}])
async def test_a_position_of_another_counter_brings_all_that_is_kept(client: Client, given: dict[str, Any]) -> None:
    """It is unknown how much was missed: the client is told to read the state, and continues from the oldest kept."""
    (epoch,) = {(await apublish("news.today", number)).position.epoch for number in range(5)}
    subscribed = await client.answer(type="subscribe", topic="news.today", offset=3, **given)
    expected = {"type": "subscribed", "topic": "news.today", "offset": 0, "epoch": epoch, "recovered": False}
    assert subscribed == expected
    assert [(await client.object())["offset"] for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_nothing_is_lost_or_doubled_while_publications_keep_coming(client: Client) -> None:
    """A client that leaves and resumes again and again, while a thousand are published, hears each once."""
    count = 1_000
    first = await client.answer(type="subscribe", topic="news.today")
    heard: list[int] = []

    async def publish() -> None:
        for number in range(count):
            await apublish("news.today", number)

    async def until(kind: str) -> dict[str, Any]:
        while (each := await client.object())["type"] != kind:
            assert each["type"] == "message"
            heard.append(each["data"])
        found: dict[str, Any] = each
        return found

    publishing = asyncio.create_task(publish())
    turns = 0
    while len(heard) < count:
        heard.append((await client.object())["data"])
        if turns < 100:
            turns += 1
            await client.say(type="unsubscribe", topic="news.today")
            await until("unsubscribed")
            await client.say(
                type="subscribe", topic="news.today", offset=first["offset"] + len(heard), epoch=(await epoch_of())
            )
            assert (await until("subscribed"))["recovered"] is True
    await publishing
    assert heard == list(range(count))
    assert turns >= 20


async def epoch_of() -> str:
    position = (await get_channel_layer()._get_layer().read_history("news.today", after=None)).position
    return str(position.epoch)


async def test_a_hundred_topics_may_be_asked_for_at_once_and_no_more_than_the_limit(client: Client) -> None:
    """As a client does that comes back; one more is refused, and there is room again after an unsubscribe."""
    # Their own topic is one of them.
    names = [f"news.n{number}" for number in range(127)]
    await client.send_to("\n".join(json.dumps({"type": "subscribe", "topic": name}) for name in names))
    assert [(await client.object())["topic"] for _ in names] == names
    refused = await client.answer(type="subscribe", topic="news.one-more")
    assert (refused["type"], refused["code"], refused["topic"]) == ("error", "too_many_topics", "news.one-more")
    assert (await client.answer(type="subscribe", topic=names[0]))["type"] == "subscribed"
    await client.answer(type="unsubscribe", topic=names[0])
    assert (await client.answer(type="subscribe", topic="news.one-more"))["type"] == "subscribed"


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("nobody.declares", "unknown_topic"),
        ("news.", "unknown_topic"),
        ("news.to day", "unknown_topic"),
        ("news.today\n", "unknown_topic"),
        ("x" * 255, "unknown_topic"),
        ("\u0000", "unknown_topic"),
        ("user.1000000", "forbidden"),
        ("user.", "unknown_topic"),
        ("user.*", "unknown_topic"),
        ("x" * 256, "bad_frame"),
        ("", "bad_frame"),
    ],
)
async def test_a_topic_that_is_not_to_be_had_is_refused(client: Client, topic: str, code: str) -> None:
    """With an error that names the topic; the connection stays open and gets nothing of it."""
    refused = await client.answer(type="subscribe", topic=topic)
    assert (refused["type"], refused["code"]) == ("error", code)
    assert refused.get("topic") == (topic if code != "bad_frame" else None)
    assert refused["detail"]
    await said_nothing(client)


async def test_another_users_topic_is_forbidden(client: Client, alice: User, bob: User) -> None:
    """However it is requested; one's own topic may be left and joined again."""
    refused = await client.answer(type="subscribe", topic=f"user.{bob.pk}", offset=0)
    assert refused["code"] == "forbidden"
    await tell(bob, "secret")
    await said_nothing(client)
    await client.answer(type="unsubscribe", topic=f"user.{alice.pk}")
    assert (await client.answer(type="subscribe", topic=f"user.{alice.pk}"))["type"] == "subscribed"


# Permissions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_permission_may_ask_the_database_and_is_asked_once(
    signalbox: Any, connect: Connect, alice: User, bob: User, kind: str
) -> None:
    """With the ORM, in a thread or awaited; the answer is cached for the connection, until it is checked again."""
    signalbox.REALTIME = {**signalbox.REALTIME, "RECHECK_SECONDS": 3600.0}
    # The first connection of a process is checked again at once: it was opened before orders could be received.
    await (await connect(bob)).greeted()
    client = await connect(alice)
    await client.greeted()
    asked: list[tuple[str, bool]] = []

    class ByGroup(Topic):
        pattern = "test.groups.<str:name>"

        if kind == "sync":

            def may_subscribe(self, user: Any, **parameters: Any) -> bool:
                asked.append((parameters["name"], threading.current_thread() is threading.main_thread()))
                return bool(user.groups.filter(name=parameters["name"]).exists())
        else:

            async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
                asked.append((parameters["name"], threading.current_thread() is threading.main_thread()))
                return bool(await user.groups.filter(name=parameters["name"]).aexists())

    group = await Group.objects.acreate(name="drivers")
    # Without the signal of `alice.groups.add()`, which lets the server check her permissions again.
    await User.groups.through.objects.acreate(user=alice, group=group)
    for _ in range(3):
        assert (await client.answer(type="subscribe", topic="test.groups.drivers"))["type"] == "subscribed"
        assert (await client.answer(type="subscribe", topic="test.groups.owners"))["code"] == "forbidden"
        await client.answer(type="unsubscribe", topic="test.groups.drivers")
    assert asked == [("drivers", kind == "async"), ("owners", kind == "async")]


async def test_a_permission_that_fails_is_no_yes(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets an error, the log a traceback, and the hook is called again the next time."""
    monkeypatch.setattr(topics, "PERMISSION_TIMEOUT_SECONDS", 0.1)
    failing = True

    class Shaky(Topic):
        pattern = "test.shaky.<slug:how>"

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            if failing:
                await {"raises": database_sync_to_async(_fail), "hangs": asyncio.Event().wait}[parameters["how"]]()
            return True

    for how in ("raises", "hangs"):
        refused = await client.answer(type="subscribe", topic=f"test.shaky.{how}")
        assert (refused["type"], refused["code"]) == ("error", "failed")
        assert "database" not in refused["detail"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in errors] == [True, True]
    assert "test.shaky.raises" in errors[0].getMessage()
    failing = False
    monkeypatch.setattr(topics, "PERMISSION_TIMEOUT_SECONDS", 10.0)
    assert (await client.answer(type="subscribe", topic="test.shaky.raises"))["type"] == "subscribed"


def _fail() -> None:
    raise OperationalError("the database is away")


async def test_answers_come_in_the_order_of_the_questions(client: Client) -> None:
    """A quick request waits for a slow earlier one; publications do not."""
    may_go_on = asyncio.Event()

    class Slow(Topic):
        pattern = "test.slow"

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            return await may_go_on.wait()

    await client.answer(type="subscribe", topic="news.today")
    await client.say(type="subscribe", topic="test.slow")
    await client.say(type="ping")
    await client.say(type="unsubscribe", topic="test.slow")
    await client.say(type="shout")
    await apublish("news.today", "meanwhile")
    assert (await client.object())["code"] == "bad_frame"
    assert (await client.object())["data"] == "meanwhile"
    may_go_on.set()
    assert [(await client.object())["type"] for _ in range(3)] == ["subscribed", "pong", "unsubscribed"]


# Acknowledging and reading --------------------------------------------------------------------------------------------


async def test_an_ack_is_cumulative_and_never_of_the_future(client: Client, alice: User) -> None:
    """It has no answer, unless it is invalid."""
    topic = f"user.{alice.pk}"
    for number in range(3):
        await tell(alice, number)
    offsets = [(await client.object())["offset"] for _ in range(3)]
    for offset in (offsets[1], offsets[0], offsets[2], 0):
        await client.say(type="ack", topic=topic, offset=offset)
    await said_nothing(client)
    assert (await client.answer(type="ack", topic=topic, offset=offsets[2] + 1))["code"] == "bad_offset"
    assert (await client.answer(type="ack", topic="news.today", offset=1))["code"] == "not_subscribed"


async def test_what_was_read_is_recorded(client: Client, alice: User, bob: User) -> None:
    """By REALTIME["ON_READ"], for this user's own only; the next question is answered when it is done."""

    def tell() -> dict[int, int]:
        notify([alice, bob], "hello")
        return {each.recipient_id: each.pk for each in Notification.objects.all()}

    ids = await database_sync_to_async(tell)()
    await client.say(type="read", ids=[ids[alice.pk], ids[bob.pk], 2**53 - 1])
    await client.say(type="ping")
    while (await client.object())["type"] != "pong":
        pass
    assert (await Notification.objects.aget(pk=ids[alice.pk])).read_at is not None
    assert (await Notification.objects.aget(pk=ids[bob.pk])).read_at is None


async def test_what_cannot_be_recorded_is_an_error_and_the_connection_stays(
    connect: Connect,
    alice: User,
    signalbox: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The site does not accept read marks, or its database is unavailable."""
    for path, code in (("", "unsupported"), ("tests.integration.test_clients.cannot_read", "failed")):
        signalbox.REALTIME = {**signalbox.REALTIME, "ON_READ": path}
        client = await connect(alice)
        await client.greeted()
        assert (await client.answer(type="read", ids=[1]))["code"] == code
        await said_nothing(client)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"user {alice.pk}" in record.getMessage()


def cannot_read(user_id: Any, ids: list[int]) -> None:
    """A hook whose database is unavailable."""
    raise OperationalError("the database is away")


# Limits ---------------------------------------------------------------------------------------------------------------


async def test_malformed_is_answered_and_the_connection_stays(client: Client, alice: User) -> None:
    """Each refused object is answered with an error; later ones are served."""
    before = dict(collect().clients.refused_counts)
    for garbage, code in [
        ("{", "bad_json"),
        ('{"type":"shout"}', "bad_frame"),
        ("\u2028", "bad_json"),
        ("", "bad_json"),
    ]:
        await client.send_input({"type": "websocket.receive", "text": garbage})
        answer = await client.object()
        assert (answer["type"], answer["code"]) == ("error", code)
    await client.send_to('{"type":"ping"}\n{"type":"ping"}')
    assert [await client.object(), await client.object()] == [{"type": "pong"}] * 2
    await tell(alice, "still here")
    assert (await client.object())["data"] == "still here"
    after = collect().clients.refused_counts
    assert {code: after[code] - before.get(code, 0) for code in ("bad_json", "bad_frame")} == {
        "bad_json": 3, "bad_frame": 1
    }  # fmt: skip


async def test_what_is_refused_for_good_reasons_never_ends_the_connection(
    connect: Connect, signalbox: Any, alice: User
) -> None:
    """Neither failures of the server nor forbidden topics, however often."""
    signalbox.REALTIME = {**signalbox.REALTIME, "ON_READ": f"{__name__}.cannot_read"}
    client = await connect(alice)
    await client.greeted()
    for _ in range(MALFORMED_LIMIT + 1):
        assert (await client.answer(type="read", ids=[1]))["code"] == "failed"
        assert (await client.answer(type="subscribe", topic="user.0"))["code"] == "forbidden"
    assert await client.answer(type="ping") == {"type": "pong"}


@pytest.mark.parametrize(
    ("sent", "answers", "code"),
    [
        ({"bytes": b'{"type":"ping"}'}, 0, CloseCode.PROTOCOL_ERROR),
        ({"text": '{"type":"ping","x":"' + "x" * FRAME_LIMIT_BYTES + '"}'}, 0, CloseCode.PROTOCOL_ERROR),
        ({"text": "x" * 1_048_576}, 0, CloseCode.PROTOCOL_ERROR),
        # Few characters but many bytes: the limit counts bytes.
        ({"text": "😀" * (FRAME_LIMIT_BYTES // 4 + 1)}, 0, CloseCode.PROTOCOL_ERROR),
        ({"text": "\n".join(["x"] * (MALFORMED_LIMIT + 1))}, MALFORMED_LIMIT + 1, CloseCode.PROTOCOL_ERROR),
        ({"text": "\n".join(['{"type":"ping"}'] * 257)}, 256, CloseCode.RATE_LIMITED),
        ({"text": "\n" * (FRAME_LIMIT_BYTES - 1)}, MALFORMED_LIMIT + 1, CloseCode.PROTOCOL_ERROR),
    ],
    ids=["binary", "too long", "1 MiB", "too many bytes", "garbage", "flood", "empty lines"],
)
async def test_what_breaks_the_protocol_ends_the_connection(
    connect: Connect, alice: User, sent: dict[str, Any], answers: int, code: CloseCode, caplog: pytest.LogCaptureFixture
) -> None:
    """A final close code with a reason, counted, no traceback, and the other connections go on."""
    bad, good = await connect(alice), await connect(alice)
    await bad.greeted()
    await good.greeted()
    before = collect().clients.closed_counts.get(code, 0)
    await bad.send_input({"type": "websocket.receive", **sent})
    for _ in range(answers):
        await bad.object()
    close = await bad.closed()
    assert close["code"] == code
    assert close["reason"]
    assert collect().clients.closed_counts[code] == before + 1
    await bad.disconnect()
    await tell(alice, "still here")
    assert (await good.object())["data"] == "still here"
    assert not caplog.records


async def test_the_rate_is_a_setting(connect: Connect, signalbox: Any, alice: User) -> None:
    """A burst, and a rate per second."""
    signalbox.REALTIME = {**signalbox.REALTIME, "FRAMES_PER_SECOND": 0.001, "FRAMES_BURST": 3}
    client = await connect(alice)
    await client.greeted()
    for _ in range(3):
        assert await client.answer(type="ping") == {"type": "pong"}
    await client.say(type="ping")
    close = await client.closed()
    assert (close["code"], close["reason"]) == (CloseCode.RATE_LIMITED, "at most 0.001 objects a second")


async def test_questions_that_pile_up_end_the_connection(connect: Connect, signalbox: Any, alice: User) -> None:
    """Behind a request that is never answered."""
    signalbox.REALTIME = {**signalbox.REALTIME, "FRAMES_BURST": 50, "FRAMES_PER_SECOND": 1e9}
    asked, cancelled = asyncio.Event(), asyncio.Event()

    class Stuck(Topic):
        pattern = "test.stuck"

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            asked.set()
            try:
                return await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    client = await connect(alice)
    await client.greeted()
    await client.say(type="subscribe", topic="test.stuck")
    await asked.wait()
    await client.send_to("\n".join(['{"type":"ping"}'] * 51))
    assert (await client.closed())["code"] == CloseCode.RATE_LIMITED
    await cancelled.wait()


async def test_a_million_names_leave_nothing_behind(
    connect: Connect, signalbox: Any, alice: User, redis_client: redis.Redis, key_prefix: str
) -> None:
    """
    One connection that hears one name after another, and many that each ask for names of their own.

    Two thousand stand for the million: what does not grow with them does not grow. Redis remembers for minutes that a
    name was asked for.
    """
    signalbox.REALTIME = {**signalbox.REALTIME, "FRAMES_PER_SECOND": 1e9, "FRAMES_BURST": 1_000_000}
    hub = get_channel_layer().hub

    def channel_count() -> int:
        own = (b"probe", CHANNEL.encode())
        names = redis_client.pubsub_channels(f"*{key_prefix}*")
        return len([name for name in names if not any(part in name for part in own)])

    client = await connect(alice)
    await client.greeted()
    for batch in range(20):
        names = [f"news.b{batch}-{number}" for number in range(100)]
        await client.send_to("\n".join(json.dumps({"type": "subscribe", "topic": name}) for name in names))
        assert [(await client.object())["topic"] for _ in names] == names
        await client.send_to("\n".join(json.dumps({"type": "unsubscribe", "topic": name}) for name in names))
        assert [(await client.object())["type"] for _ in names] == ["unsubscribed"] * 100
        assert hub.statistics().topic_count == 1
    await wait_until(lambda: channel_count() == 1)
    others = await asyncio.gather(*(connect(alice) for _ in range(10)))
    for index, other in enumerate(others):
        await other.greeted()
        await other.send_to(
            "\n".join(json.dumps({"type": "subscribe", "topic": f"news.c{index}-{n}"}) for n in range(50))
        )
        assert [(await other.object())["type"] for _ in range(50)] == ["subscribed"] * 50
    assert hub.statistics().topic_count == 501
    for other in others:
        await other.disconnect()
    assert hub.statistics().topic_count == 1
    await wait_until(lambda: channel_count() == 1)
    lives = [redis_client.pttl(key) for key in redis_client.scan_iter(match=f"*{key_prefix}*news*")]
    assert max(lives, default=1) <= 600_000
    assert min(lives, default=1) > 0


async def test_a_topic_that_cannot_be_had_from_redis_ends_the_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reconnects and gets all its topics, instead of missing one without knowing."""

    async def lost(*args: Any, **options: Any) -> None:
        raise ConnectionError("Redis is away")

    monkeypatch.setattr(get_channel_layer().hub, "join", lost)
    monkeypatch.setattr(sessions_module, "_redis_observer", Outage("Redis").observer())
    await client.say(type="subscribe", topic="news.today")
    assert (await client.closed())["code"] == CloseCode.UNAVAILABLE


async def test_a_mistake_of_ours_ends_one_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a close code for it, and a traceback in the log."""

    async def broken(*args: Any, **options: Any) -> None:
        raise LookupError("a defect")

    monkeypatch.setattr(get_channel_layer().hub, "join", broken)
    await client.say(type="subscribe", topic="news.today")
    assert (await client.closed())["code"] == 1011
    assert "a defect" in caplog.text
