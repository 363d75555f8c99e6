"""Filtered subscriptions of clients: what they see, what they may see, and what the server answers."""

import asyncio
import json
from typing import Any

import pytest
import redis
from channels.db import database_sync_to_async as in_thread
from channels.layers import get_channel_layer
from django.contrib.auth.models import Group, User

from realtime import access, topics
from realtime.exceptions import PublicationRefused, SnapshotFull
from realtime.live.view import View
from realtime.protocol.close_codes import CloseCode
from realtime.publisher import Item, apublish, apublish_many
from realtime.statistics import collect
from realtime.topics import Snapshot, Tiles, Topic
from realtime.websocket.consumer import _rosters
from tests.integration.clients import Client, Connect
from tests.support.view_clients import Viewer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database_independent]

BERN = [7.3, 46.8, 7.6, 47.1]
TOKYO = [139.5, 35.5, 140.0, 36.0]


class Asked:
    """What the hooks of the families below were asked."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.filters = self.chat_filters = 0
        # What the hooks of ferries wait for, and whether one of them waits.
        self.may_answer = asyncio.Event()
        self.is_waiting = False


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """
    Vehicles that members of a feed's group may see, and trams that everybody may see as far as the site says.

    Ferries are as vehicles, but to open a view takes long.
    """
    asked = Asked()
    monkeypatch.setattr(topics, "_families", list(topics._families))
    topics._resolve.cache_clear()

    class Vehicles(Topic):
        pattern = "test.vehicles.<slug:feed>"
        snapshot = Snapshot(key_limit=5, gather_seconds=0)
        places = Tiles()

        def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            asked.topics.append(parameters["feed"])
            return bool(user.groups.filter(name=parameters["feed"]).exists())

    class Ferries(Vehicles):
        pattern = "test.ferries.<slug:feed>"

        async def filter_for(self, user: Any) -> None:
            asked.is_waiting = True
            await asked.may_answer.wait()

    class Trams(Topic):
        pattern = "test.trams.<slug:feed>"
        snapshot = Snapshot(gather_seconds=0)
        places = Tiles()

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            return True

        async def may_follow(self, user: Any) -> bool:
            return bool(user.first_name != "nobody")

        def filter_for(self, user: Any) -> Any:
            asked.filters += 1
            # In the database: sync.
            if user.groups.filter(name="staff").exists():
                return None
            return {"bbox": BERN, "tags": {"secret": {"nex": True}}}

    class Chat(Topic):
        pattern = "test.chat"

        async def may_subscribe(self, user: Any, **parameters: Any) -> bool:
            return True

        async def filter_for(self, user: Any) -> None:
            asked.chat_filters += 1

    return asked


class ViewClient:
    """A connection with views: the frames of each go to a viewer of its own."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.viewers: dict[str, Viewer] = {}
        self.others: list[Any] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            text = await self.client.receive_from(30)
            lines = [json.loads(line) for line in text.split("\n")]
            name = lines[0].get("view")
            if lines[0]["type"] in ("view", "subscribed") and name:
                self.viewers.setdefault(name, Viewer()).take(lines)
            else:
                self.others += lines

    def _is_reading(self) -> bool:
        """Whether the reader goes on; raises what ended it."""
        if self.task.done():
            self.task.result()
        assert not any(body["type"] == "error" for body in self.others), self.others
        return True

    async def send(self, **body: Any) -> None:
        await self.client.send_to(text_data=json.dumps(body))

    async def answer(self, **body: Any) -> Any:
        """Send something, and wait for the next object that is not of a view."""
        count = len(self.others)
        await self.send(**body)
        await wait_until(lambda: len(self.others) > count)
        return self.others[count]

    async def opened(self, topic: str, view: str = "v1", **filter: Any) -> Viewer:
        await self.send(type="subscribe", topic=topic, view=view, number=1, filter=filter)
        await wait_until(lambda: self._is_reading() and view in self.viewers and self.viewers[view].batches)
        return self.viewers[view]


@pytest.fixture
async def view_client(connect: Connect, alice: User) -> Any:
    client = await connect(alice)
    await client.greeted()
    made = ViewClient(client)
    yield made
    made.task.cancel()
    await asyncio.wait([made.task])


def join_group(user: User, *names: str) -> None:
    for name in names:
        user.groups.add(Group.objects.get_or_create(name=name)[0])


async def vehicle(topic: str, key: str, at: tuple[float, float] = (7.44, 46.95), **more: Any) -> None:
    await apublish(topic, {"key": key}, key=key, at=at, **more)


async def test_a_topic_with_a_filter(view_client: ViewClient, alice: User) -> None:
    """The newest of each key comes first, then what changes; panning brings what enters and tells what leaves."""
    await in_thread(join_group)(alice, "sbb")
    await vehicle("test.vehicles.sbb", "tram", tags={"mode": "tram"})
    await vehicle("test.vehicles.sbb", "bus", tags={"mode": "bus"})
    await vehicle("test.vehicles.sbb", "metro", (139.7, 35.7), tags={"mode": "metro"})
    viewer = await view_client.opened("test.vehicles.sbb", bbox=BERN, zoom=12, tags={"mode": ["tram", "metro"]})
    assert viewer.keys == {"tram"}
    await vehicle("test.vehicles.sbb", "tram", (7.45, 46.95), tags={"mode": "tram"})
    await wait_until(lambda: viewer.items == {("test.vehicles.sbb", "tram"): 4})

    await view_client.send(type="filter", view="v1", number=2, filter={"bbox": TOKYO, "zoom": 12})
    await wait_until(lambda: viewer.keys == {"metro"})
    assert viewer.numbers[-1] == 2
    answer = await view_client.answer(type="unsubscribe", topic="test.vehicles.sbb", view="v1")
    assert answer == {"type": "unsubscribed", "topic": "test.vehicles.sbb", "view": "v1"}


async def test_a_family_follows_the_view(view_client: ViewClient) -> None:
    """One subscription shows the topics that publish where it looks, also those that begin later."""
    await vehicle("test.trams.bern", "tram")
    viewer = await view_client.opened("test.trams.*", bbox=BERN, zoom=12)
    assert viewer.keys == {"tram"}
    await vehicle("test.trams.thun", "other", (7.5, 46.9))
    await wait_until(lambda: viewer.keys == {"tram", "other"})
    await apublish("test.trams.thun", None, key="other", removed=True)
    await wait_until(lambda: viewer.keys == {"tram"})


async def test_a_client_resumes_topics_that_began_after_its_view(
    view_client: ViewClient, connect: Connect, alice: User
) -> None:
    """On another connection it is sent only what has changed since, also of a topic that the view began without."""
    await vehicle("test.trams.bern", "old")
    viewer = await view_client.opened("test.trams.*", bbox=BERN, zoom=12)
    await vehicle("test.trams.thun", "new", (7.5, 46.9))
    await wait_until(lambda: viewer.keys == {"old", "new"})
    assert viewer.positions.keys() == {"test.trams.bern", "test.trams.thun"}
    await view_client.send(type="unsubscribe", topic="test.trams.*", view="v1")
    await wait_until(lambda: bool(view_client.others))

    client = await connect(alice)
    await client.greeted()
    again = ViewClient(client)
    again.viewers["v1"], viewer.is_started, count = viewer, False, viewer.message_count
    body = {"type": "subscribe", "topic": "test.trams.*", "view": "v1", "number": 2}
    await again.send(**body, filter={"bbox": BERN, "zoom": 12}, positions=viewer.positions)
    await wait_until(lambda: again._is_reading() and viewer.numbers[-1] == 2)
    assert (viewer.same, viewer.message_count) == ({"old", "new"}, count)
    again.task.cancel()
    await asyncio.wait([again.task])


async def test_a_topic_is_subscribed_to_only_while_it_is_in_view(
    view_client: ViewClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process follows only the topics whose extent somebody looks at."""
    monkeypatch.setattr("realtime.live.views.LINGER_SECONDS", 0)
    await in_thread(join_group)(alice, "staff")
    await vehicle("test.trams.bern", "tram")
    await vehicle("test.trams.tokyo", "metro", (139.7, 35.7))
    viewer = await view_client.opened("test.trams.*", bbox=BERN, zoom=12)
    views = get_channel_layer().views
    assert views.statistics().feed_count == 1
    await view_client.send(type="filter", view="v1", number=2, filter={"bbox": TOKYO, "zoom": 12})
    await wait_until(lambda: viewer.keys == {"metro"})
    await wait_until(lambda: views.statistics().feed_count == 1)


async def test_a_family_shows_only_topics_for_which_the_user_has_the_permission(
    view_client: ViewClient, alice: User
) -> None:
    """Each topic that comes into view is asked for; a lost permission takes its keys away, a new one brings them."""
    await in_thread(join_group)(alice, "sbb", "bls")
    for feed in ("sbb", "bls", "rbs"):
        await vehicle(f"test.vehicles.{feed}", feed)
    viewer = await view_client.opened("test.vehicles.*", bbox=BERN, zoom=12)
    assert viewer.keys == {"sbb", "bls"}
    await vehicle("test.vehicles.rbs", "rbs")
    await vehicle("test.vehicles.sbb", "last")
    await wait_until(lambda: viewer.keys == {"sbb", "bls", "last"})

    await in_thread(alice.groups.set)(await in_thread(list)(Group.objects.filter(name="sbb")))
    await in_thread(access.permissions_changed)(alice.pk)
    await wait_until(lambda: viewer.keys == {"sbb", "last"})
    await in_thread(join_group)(alice, "rbs")
    await in_thread(access.permissions_changed)(alice.pk)
    await wait_until(lambda: viewer.keys == {"sbb", "last", "rbs"})


async def test_a_lost_permission_closes_the_view_of_a_topic(view_client: ViewClient, alice: User) -> None:
    """The client is told why, and gets nothing more; the connection stays open."""
    await in_thread(join_group)(alice, "sbb")
    viewer = await view_client.opened("test.vehicles.sbb", bbox=BERN, zoom=12)
    await in_thread(alice.groups.clear)()
    await in_thread(access.permissions_changed)(alice.pk)
    await wait_until(lambda: bool(view_client.others))
    assert view_client.others[0]["type"] == "unsubscribed"
    assert (view_client.others[0]["view"], view_client.others[0]["code"]) == ("v1", "forbidden")
    await vehicle("test.vehicles.sbb", "secret")
    assert (await view_client.answer(type="ping")) == {"type": "pong"}
    assert not viewer.items


async def test_a_client_that_moves_about_asks_for_each_topic_once(
    view_client: ViewClient, alice: User, asked: Asked
) -> None:
    """However many views it opens and however it pans: the hooks may be slow."""
    await in_thread(join_group)(alice, "sbb")
    for feed in ("sbb", "bls", "rbs"):
        await vehicle(f"test.vehicles.{feed}", feed)
    viewers = [await view_client.opened("test.vehicles.*", f"v{number}", bbox=BERN) for number in range(3)]
    for number in range(2, 12):
        await view_client.send(type="filter", view="v0", number=number, filter={"bbox": (BERN, TOKYO)[number % 2]})
    await view_client.send(type="filter", view="v0", number=12, filter={"bbox": BERN})
    await wait_until(lambda: viewers[0].numbers[-1] == 12)
    assert viewers[0].keys == {"sbb"}
    # Once, and again if the connection was checked meanwhile.
    assert all(asked.topics.count(feed) <= 2 for feed in ("sbb", "bls", "rbs"))

    asked.topics.clear()
    await in_thread(join_group)(alice, "rbs")
    await in_thread(access.permissions_changed)(alice.pk)
    await wait_until(lambda: all(viewer.keys == {"sbb", "rbs"} for viewer in viewers))
    assert all(asked.topics.count(feed) <= 2 for feed in ("sbb", "bls", "rbs"))


async def test_many_views_of_a_family_ask_for_the_filter_of_the_site_once(
    view_client: ViewClient, alice: User, asked: Asked
) -> None:
    """When the permissions are checked again."""
    await vehicle("test.trams.bern", "tram")
    await vehicle("test.trams.bern", "hidden", tags={"secret": True})
    viewers = [await view_client.opened("test.trams.*", f"v{number}") for number in range(10)]
    before = asked.filters
    await in_thread(join_group)(alice, "staff")
    await in_thread(access.permissions_changed)(alice.pk)
    await wait_until(lambda: all(viewer.keys == {"tram", "hidden"} for viewer in viewers))
    # And again if the connection was checked meanwhile anyway.
    assert asked.filters <= before + 2


@pytest.mark.parametrize("topic", ["test.ferries.sbb", "test.ferries.*"])
async def test_a_permission_that_is_lost_while_a_view_is_opened(
    view_client: ViewClient, alice: User, asked: Asked, topic: str
) -> None:
    """It was there when it was asked for, but the view shows nothing more in the end."""
    await in_thread(join_group)(alice, "sbb")
    await vehicle("test.ferries.sbb", "ferry")
    assert (await view_client.answer(type="subscribe", topic="test.chat"))["type"] == "subscribed"
    await view_client.send(type="subscribe", topic=topic, view="v1", number=1, filter={})
    await wait_until(lambda: asked.is_waiting)
    # Of a family, the topics are asked for afterwards.
    assert asked.topics == ([] if "*" in topic else ["sbb"])
    before = asked.chat_filters
    await in_thread(alice.groups.clear)()
    await in_thread(access.permissions_changed)(alice.pk)
    await wait_until(lambda: asked.chat_filters > before)
    asked.may_answer.set()
    if "*" in topic:
        await wait_until(lambda: "v1" in view_client.viewers and view_client.viewers["v1"].batches)
    else:
        await wait_until(lambda: len(view_client.others) > 1)
        assert [view_client.others[1][name] for name in ("type", "view", "code")] == ["unsubscribed", "v1", "forbidden"]
    await vehicle("test.ferries.sbb", "secret")
    assert (await view_client.answer(type="ping")) == {"type": "pong"}
    assert "secret" not in view_client.viewers["v1"].keys


async def test_a_connection_that_a_hook_ends_leaves_no_view(
    view_client: ViewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the hook is called before the worker of the connection waits for the first time."""
    (connection,) = [each for roster in _rosters.values() for each in roster._connections()]

    async def end(*given: Any) -> None:
        connection.end(CloseCode.DISCONNECTED, "ended by the site's staff")

    monkeypatch.setattr(topics, "filter_for", end)
    await vehicle("test.trams.bern", "tram")
    await view_client.send(type="subscribe", topic="test.trams.bern", view="v1", number=1, filter={})
    await wait_until(lambda: connection.is_over and connection._worker is None)
    assert get_channel_layer().views.statistics().view_count == 0


async def test_a_connection_whose_view_fails_leaves_all_its_topics(
    view_client: ViewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: no frame may follow the close frame, although the client has not answered it yet."""
    await view_client.opened("test.trams.bern")
    assert (await view_client.answer(type="subscribe", topic="test.chat"))["type"] == "subscribed"
    (connection,) = [each for roster in _rosters.values() for each in roster._connections()]
    layer = get_channel_layer()
    before = collect().clients.closed_counts.get(CloseCode.WRITE_FAILED, 0)
    with monkeypatch.context() as patch:
        patch.setattr(View, "write_changes", lambda *given: 1 / 0)
        await vehicle("test.trams.bern", "tram")
        await wait_until(lambda: connection._sink.is_closed)
    assert connection.is_over
    assert layer.hub.statistics().membership_count == 0
    assert layer.views.statistics().view_count == 0
    assert collect().clients.closed_counts[CloseCode.WRITE_FAILED] == before + 1


async def test_a_lost_family_closes_its_view(view_client: ViewClient, alice: User) -> None:
    """`may_follow` is asked again too."""
    await view_client.opened("test.trams.*")
    alice.first_name = "nobody"
    await in_thread(alice.save)()
    await wait_until(lambda: bool(view_client.others))
    assert (view_client.others[0]["type"], view_client.others[0]["code"]) == ("unsubscribed", "forbidden")


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"bbox": [-180, -90, 180, 90], "zoom": 22},
        {"tags": {"secret": True}},
        {"tags": {"$or": [{"secret": {"nex": True}}, {"secret": {"ex": True}}]}},
        {"bbox": TOKYO},
    ],
)
async def test_a_client_can_only_narrow_what_the_site_allows(
    view_client: ViewClient, alice: User, wanted: dict[str, Any]
) -> None:
    """Whatever filter it sends; and when the site allows more or less, the view follows."""
    await vehicle("test.trams.bern", "tram")
    await vehicle("test.trams.bern", "hidden", tags={"secret": True})
    await vehicle("test.trams.bern", "far", (139.7, 35.7))
    # Just outside of the site's bbox: a client gets a ring of cells more than it asks for, but not more than allowed.
    await vehicle("test.trams.bern", "edge", (7.3 - 0.001, 46.95))
    viewer = await view_client.opened("test.trams.bern", **wanted)
    await view_client.send(type="filter", view="v1", number=2, filter=wanted)
    await wait_until(lambda: viewer.numbers[-1] == 2)
    assert viewer.keys <= {"tram"}
    await vehicle("test.trams.bern", "hidden", tags={"secret": True})
    await in_thread(join_group)(alice, "staff")
    await in_thread(access.permissions_changed)(alice.pk)
    if not wanted:
        await wait_until(lambda: viewer.keys == {"tram", "hidden", "far", "edge"})
        await in_thread(alice.groups.clear)()
        await in_thread(access.permissions_changed)(alice.pk)
        await wait_until(lambda: viewer.keys == {"tram"})


async def test_a_user_who_may_see_a_part_cannot_do_without_a_filter(view_client: ViewClient, alice: User) -> None:
    """A subscription without a filter gets all of a topic; it ends when the site hides something of it."""
    subscribe = {"type": "subscribe", "topic": "test.trams.bern"}
    answer = await view_client.answer(**subscribe)
    assert (answer["type"], answer["code"]) == ("error", "forbidden")
    view_client.others.clear()
    await vehicle("test.trams.bern", "hidden", tags={"secret": True})
    viewer = await view_client.opened("test.trams.bern")
    await in_thread(join_group)(alice, "staff")
    await in_thread(access.permissions_changed)(alice.pk)
    await wait_until(lambda: viewer.keys == {"hidden"})
    assert (await view_client.answer(**subscribe))["type"] == "subscribed"
    count = len(view_client.others)
    await in_thread(alice.groups.clear)()
    await in_thread(access.permissions_changed)(alice.pk)
    await wait_until(lambda: len(view_client.others) > count)
    ended = view_client.others[count]
    assert (ended["type"], ended["code"], ended.get("view")) == ("unsubscribed", "forbidden", None)
    assert await view_client.answer(type="ping") == {"type": "pong"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"topic": "test.vehicles.sbb", "filter": {}}, "forbidden"),
        ({"topic": "test.nothing", "filter": {}}, "unknown_topic"),
        ({"topic": "test.*", "filter": {}}, "unknown_topic"),
        ({"topic": "*", "filter": {}}, "unknown_topic"),
        ({"topic": "test.chat", "filter": {}}, "not_filterable"),
        ({"topic": "test.trams.*", "filter": {"bbox": [0, 50, 1, 40]}}, "bad_filter"),
        ({"topic": "test.trams.*", "filter": {"zoom": "near"}}, "bad_filter"),
        ({"topic": "test.trams.*", "filter": {"tags": {"a": {"like": "b"}}}}, "bad_filter"),
        ({"topic": "test.trams.*", "filter": []}, "bad_filter"),
        ({"topic": "test.trams.*", "filter": {}, "view": "a b"}, "bad_frame"),
        ({"topic": "test.trams.*", "filter": {}, "positions": {"x": [-1, ""]}}, "bad_frame"),
    ],
)
async def test_what_cannot_be_opened_is_refused(view_client: ViewClient, body: dict[str, Any], code: str) -> None:
    """With a code and a sentence; the connection stays open, and nothing is left of it."""
    answer = await view_client.answer(**{"type": "subscribe", "view": "v1", "number": 1, **body})
    assert (answer["type"], answer["code"]) == ("error", code)
    assert answer["detail"]
    assert (await view_client.answer(type="ping")) == {"type": "pong"}
    assert get_channel_layer().views.statistics().view_count == 0


async def test_a_bad_filter_leaves_the_view_as_it_was(view_client: ViewClient) -> None:
    """And so does a filter for a view that there is not."""
    await vehicle("test.trams.bern", "tram")
    viewer = await view_client.opened("test.trams.bern")
    answer = await view_client.answer(type="filter", view="v1", number=2, filter={"bbox": [1]})
    assert (answer["code"], answer["view"], answer["number"]) == ("bad_filter", "v1", 2)
    answer = await view_client.answer(type="filter", view="v2", number=2, filter={})
    assert (answer["code"], answer["view"]) == ("unknown_view", "v2")
    await vehicle("test.trams.bern", "tram")
    await wait_until(lambda: viewer.items == {("test.trams.bern", "tram"): 2})


@pytest.mark.parametrize("text", ["null", "[]", '"x"', '{"zoom":1e400}', '{"tags":{"a":1' + "0" * 9_000 + "}}"])
async def test_a_filter_that_is_no_filter_is_refused(view_client: ViewClient, text: str) -> None:
    """The connection stays open, and a view is not opened with it."""
    frame = f'{{"type":"subscribe","topic":"test.trams.bern","view":"v1","number":1,"filter":{text}}}'
    await view_client.client.send_to(text_data=frame)
    await wait_until(lambda: view_client.others)
    answer = view_client.others[0]
    assert (answer["code"], answer["view"], answer["number"]) == ("bad_filter", "v1", 1)
    view_client.others.clear()
    await view_client.opened("test.trams.bern")


async def test_a_bad_filter_does_not_take_back_the_one_before_it(view_client: ViewClient) -> None:
    """Though both arrive together, the good one is answered and stays in force."""
    await vehicle("test.trams.bern", "tram", tags={"mode": "tram"})
    await vehicle("test.trams.bern", "bus", tags={"mode": "bus"})
    viewer = await view_client.opened("test.trams.bern")
    frames = [
        {"type": "filter", "view": "v1", "number": 2, "filter": {"tags": {"mode": "tram"}}},
        {"type": "filter", "view": "v1", "number": 3, "filter": {"tags": {"mode": None}}},
    ]
    await view_client.client.send_to(text_data="\n".join(map(json.dumps, frames)))
    await wait_until(lambda: viewer.keys == {"tram"})
    assert viewer.numbers[-1] == 2
    assert [(body["code"], body["number"]) for body in view_client.others] == [("bad_filter", 3)]


async def test_views_count_as_topics(view_client: ViewClient, signalbox: Any) -> None:
    """A connection has no more views and topics than its limit."""
    for number in range(127):
        await view_client.send(type="subscribe", topic="test.trams.bern", view=f"v{number}", filter={})
    await wait_until(lambda: len(view_client.viewers) == 127)
    answer = await view_client.answer(type="subscribe", topic="test.trams.bern", view="v127", filter={})
    assert (answer["code"], answer["view"]) == ("too_many_topics", "v127")


async def test_a_publication_that_the_topic_does_not_take() -> None:
    """The error says what is wrong with it; nothing is published."""
    for topic, arguments, problem in [
        ("test.vehicles.sbb", {}, "key= is a text"),
        ("test.vehicles.sbb", {"key": "a\nb"}, "key= is a text"),
        ("test.vehicles.sbb", {"key": "k" * 201}, "key= is a text"),
        ("test.vehicles.sbb", {"key": "k", "at": (7, 91)}, "a latitude is between"),
        ("test.vehicles.sbb", {"key": "k", "at": (7,)}, "latitude"),
        ("test.vehicles.sbb", {"key": "k", "at": (7, 46), "bounds": (1, 2, 3, 4)}, "not both"),
        ("test.vehicles.sbb", {"key": "k", "at": ("7", "46")}, "at= is .longitude, latitude"),
        ("test.vehicles.sbb", {"key": "k", "bounds": (1, 2, 3)}, "bounds= is .west, south, east, north"),
        ("test.vehicles.sbb", {"key": "k", "tags": ["mode"]}, "tags= is a mapping"),
        ("test.vehicles.sbb", {"key": "k", "tags": {"a": None}}, "the tag 'a'"),
        ("test.vehicles.sbb", {"key": "k", "tags": {"a": float("nan")}}, "the tag 'a'"),
        ("test.vehicles.sbb", {"key": "k", "tags": {"$or": 1}}, "the name of a tag"),
        ("test.vehicles.sbb", {"key": "k", "level": 25}, "level= is a whole number"),
        ("test.vehicles.sbb", {"key": "k", "removed": True}, "a removed key has no data"),
        ("test.chat", {"key": "k"}, "only a topic with a snapshot"),
    ]:
        with pytest.raises(PublicationRefused, match=problem):
            await apublish(topic, {}, **arguments)


async def test_a_full_snapshot_refuses_another_key(view_client: ViewClient, alice: User) -> None:
    """The publisher is told which; what is there already goes on, and the others of the same call are published."""
    await in_thread(join_group)(alice, "sbb")
    viewer = await view_client.opened("test.vehicles.sbb")
    for number in range(5):
        await vehicle("test.vehicles.sbb", f"k{number}")
    with pytest.raises(SnapshotFull, match="'k5' and 1 more"):
        await apublish_many([Item("test.vehicles.sbb", 1, key=key, at=(7.4, 46.9)) for key in ("k0", "k5", "k6", "k1")])
    await wait_until(lambda: viewer.items.get(("test.vehicles.sbb", "k1")) == 7)
    assert viewer.keys == {f"k{number}" for number in range(5)}
    await apublish("test.vehicles.sbb", None, key="k0", removed=True)
    await vehicle("test.vehicles.sbb", "k5")
    await wait_until(lambda: viewer.keys == {"k1", "k2", "k3", "k4", "k5"})


async def test_a_topic_of_another_family_is_not_followed(view_client: ViewClient, redis_client: redis.Redis) -> None:
    """Even if something registers it in Redis: `may_follow` of one family opens no topic of another."""
    await vehicle("test.trams.bern", "tram")
    await vehicle("test.vehicles.sbb", "secret")
    keys = get_channel_layer().keys
    for field, extent in redis_client.hgetall(keys.family_extents("test.vehicles.*")).items():
        redis_client.hset(keys.family_extents("test.trams.*"), field, extent)
    viewer = await view_client.opened("test.trams.*")
    assert viewer.keys == {"tram"}
    assert get_channel_layer().views.statistics().feed_count == 1
