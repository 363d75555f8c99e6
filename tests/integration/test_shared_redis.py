"""Two sites on one Redis with different key prefixes, database numbers, or both: neither receives the other's."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from notifications.workers.ingress import Ingress
from realtime import conf
from realtime.broker.history import HistoryPolicy
from realtime.broker.publication import Position
from realtime.broker.publish import PublishRequest
from realtime.layer import RedisChannelLayer
from realtime.pubsub.multiplexer import Multiplexer
from realtime.redis import clients
from realtime.redis.keys import Keys
from realtime.redis.lease import Lease
from tests.custom_user.running import reported
from tests.support.redis_server import RedisServer
from tests.support.topic_clients import Client, ClientSink
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent

DOCS = Path(__file__).resolve().parents[2] / "docs"
TOPIC = "news.today"
POLICY = HistoryPolicy()
# Pairs of sites, each as (key prefix, database number).
PAIRS = [
    (("", 0), ("", 1)),
    (("", 1), ("", 2)),
    (("", 0), ("shop:", 0)),
    (("shop:", 0), ("forum:", 0)),
    (("shop:", 3), ("shop:", 0)),
    (("shop:", 1), ("forum:", 2)),
]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server without the names of other tests."""
    with RedisServer() as server:
        yield server


class Hears(Client):
    """Keeps the data of what comes."""

    def __init__(self) -> None:
        super().__init__(None)
        self.data: list[Any] = []

    def check(self, data: Any, position: Position) -> None:
        self.data.append(data)


class Site:
    """One site's channel layer and ingress, and everything that they receive."""

    def __init__(self, layer: RedisChannelLayer, client: redis.Redis, channel: str) -> None:
        self.layer, self.client, self.ingress_channel = layer, client, channel
        self.on_topic = Hears()
        # Messages of the group TOPIC, of the named channel "worker", and requests to the ingress.
        self.in_group: list[Any] = []
        self.on_worker: list[Any] = []
        self.requests: list[bytes] = []

    async def hear(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Listen in all ways; returns the tasks to cancel at the end."""
        await self.layer.hub.join(TOPIC, ClientSink(self.on_topic))
        channel = await self.layer.new_channel()
        await self.layer.group_add(TOPIC, channel)
        return [
            tasks.create_task(self._receive(channel, self.in_group)),
            tasks.create_task(self._receive("worker", self.on_worker)),
        ]

    async def say(self, word: str) -> None:
        """Send `word` in all ways, as a process of this site or a program beside it does."""
        await self.layer.publish(PublishRequest(TOPIC, json.dumps(word).encode(), POLICY))
        await self.layer.group_send(TOPIC, {"type": "a.message", "word": word})
        await self.layer.send("worker", {"type": "a.message", "word": word})
        self.client.publish(self.ingress_channel, word)

    def has_heard(self, word: str) -> bool:
        message = {"type": "a.message", "word": word}
        return (
            word in self.on_topic.data
            and message in self.in_group
            and message in self.on_worker
            and word.encode() in self.requests
        )

    async def _receive(self, channel: str, kept: list[Any]) -> None:
        while True:
            kept.append(await self.layer.receive(channel))


@asynccontextmanager
async def running(server: RedisServer, prefix: str, database: int) -> AsyncIterator[Site]:
    """A site with default settings but for these two; its ingress keeps requests instead of carrying them out."""
    url = f"{server.url}?db={database}"
    async with AsyncExitStack() as undo:
        with override_settings(REALTIME={"REDIS_URL": url, "KEY_PREFIX": prefix}):
            layer, keys = RedisChannelLayer([url]), conf.keys()
        undo.push_async_callback(layer.flush)
        reader, publisher = clients.async_reader(url), clients.async_publisher(url)
        undo.push_async_callback(reader.aclose)
        undo.push_async_callback(publisher.aclose)
        site = Site(layer, undo.enter_context(redis.Redis.from_url(url)), keys.ingress_channel())
        before = subscription_count(site.client)
        multiplexer = await undo.enter_async_context(
            Multiplexer(reader, publisher=publisher, probe_channel=keys.probe_channel())
        )
        ingress = Ingress(
            publisher,
            channel=keys.ingress_channel(),
            counters_key=keys.counters("ingress"),
            lease=Lease(publisher, keys.lease("ingress")),
        )

        async def keep(body: bytes) -> None:
            site.requests.append(body)

        ingress.take = keep  # type: ignore[method-assign]
        tasks = await undo.enter_async_context(asyncio.TaskGroup())
        listening = [tasks.create_task(ingress.run(multiplexer)), *await site.hear(tasks)]
        # Left first: a task group waits for its tasks.
        undo.callback(lambda: [task.cancel() for task in listening])
        # Its group, a channel of its own, "worker", the ingress, and the probes of two connections.
        await wait_until(lambda: subscription_count(site.client) == before + 6)
        yield site


def subscription_count(client: redis.Redis) -> int:
    """How many subscriptions Redis has, of all sites."""
    return sum(count for _, count in client.pubsub_numsub(*client.pubsub_channels("*")))


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_neither_site_hears_the_other(
    server: RedisServer, first: tuple[str, int], second: tuple[str, int]
) -> None:
    """On topics, in groups, on named channels and on the ingress; each receives its own messages."""
    async with running(server, *first) as one, running(server, *second) as two:
        for turn in range(3):
            await one.say(f"one {turn}")
            await two.say(f"two {turn}")
        await wait_until(lambda: one.has_heard("one 2") and two.has_heard("two 2"))
        for site, word in ((one, "one"), (two, "two")):
            assert site.on_topic.data == [f"{word} {turn}" for turn in range(3)]
            assert {message["word"].split()[0] for message in site.in_group if "word" in message} == {word}
            assert [message["word"] for message in site.on_worker] == [f"{word} {turn}" for turn in range(3)]
            assert site.requests == [f"{word} {turn}".encode() for turn in range(3)]


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_no_name_is_shared(server: RedisServer, first: tuple[str, int], second: tuple[str, int]) -> None:
    """All channels and keys of a site, its probes included, have the site's own prefix."""
    async with running(server, *first) as one:
        await one.say("one")
        channels, keys = set(one.client.pubsub_channels("*")), set(one.client.keys("*"))
        async with running(server, *second) as two:
            await two.say("two")
            its_channels = set(two.client.pubsub_channels("*")) - channels
            its_keys = set(two.client.keys("*")) - (keys if first[1] == second[1] else set())
            assert (len(channels), len(its_channels)) == (6, 6)
            assert (len(keys), len(its_keys)) == (2, 2)
            for names, own, (prefix, database) in ((channels, keys, first), (its_channels, its_keys, second)):
                start = f"{prefix}db{database}:" if database else prefix
                assert all(name.startswith(start.encode()) for name in names)
                assert all(name.startswith(prefix.encode()) for name in own)


async def test_whole_sites_do_not_meet(server: RedisServer, tmp_path: Path) -> None:
    """Relay, bot, ingress and sockets of three sites at once, whose users have the same keys: each is told its own."""
    places = [("", 0), ("", 1), ("shop:", 1)]
    directories = [tmp_path / str(number) for number in range(len(places))]
    for directory in directories:
        directory.mkdir()
    where: list[Any] = [
        {"url": f"{server.url}?db={database}", "keys": Keys(prefix), "directory": directory}
        for (prefix, database), directory in zip(places, directories, strict=True)
    ]
    users = json.dumps(["alice@example.com", "bob"])
    reports = await asyncio.gather(
        *(asyncio.to_thread(reported, "live_site", users, model="EmailUser", **each) for each in where)
    )
    for report in reports:
        assert [(len(each["heard"]), len(each["sent"])) for each in report.values()] == [(2, 2), (2, 2)]


async def test_with_the_defaults_names_are_as_they_always_were(server: RedisServer) -> None:
    """Other programs know them: no prefix, database 0."""
    async with running(server, "", 0) as site:
        assert site.ingress_channel == "notification"
        assert site.layer.redis_channel("user.42") == "asgi__group__user.42"
        names = {name.decode().rpartition(":")[0] or name.decode() for name in site.client.pubsub_channels("*")}
        own = {name for name in names if name.startswith("asgispecific.")}
        assert names - own == {"notification", f"asgi__group__{TOPIC}", "worker", "asgi__probe", "signalbox:probe"}
        assert len(own) == 1
        await site.layer.publish(PublishRequest(TOPIC, b"1", POLICY))
        assert set(site.client.keys("*")) == {
            f"signalbox:{{{TOPIC}}}:{each}".encode() for each in ("position", "history")
        }


@pytest.mark.parametrize(
    ("key_prefix", "prefix", "channel", "key"),
    [
        ("", "chat", "chat__group__a", "chatsignalbox:{a}:position"),
        ("shop:", "asgi", "shop:asgi__group__a", "shop:signalbox:{a}:position"),
        ("as", "asgi", "asasgi__group__a", "assignalbox:{a}:position"),
        ("shop:", "chat", "shop:chat__group__a", "shop:chatsignalbox:{a}:position"),
        # It has the key prefix already, as the documentation once had it: not a second time.
        ("shop:", "shop:asgi", "shop:asgi__group__a", "shop:asgisignalbox:{a}:position"),
    ],
)
def test_a_prefix_of_the_layer_comes_below_the_projects(key_prefix: str, prefix: str, channel: str, key: str) -> None:
    """And the channels that it makes are heard on what they are called."""
    with override_settings(REALTIME={"REDIS_URL": "redis://localhost", "KEY_PREFIX": key_prefix}):
        layer = RedisChannelLayer(prefix=prefix)
    assert layer.redis_channel("a") == channel
    assert layer.redis_name(f"{prefix}specific.b", 0) == channel.replace("__group__a", "specific.b")
    assert layer.redis_name("worker", 0) == f"{key_prefix}worker"
    assert layer.keys.topic_position("a") == key


def test_each_host_of_a_layer_has_its_own_database() -> None:
    """Two hosts may have different ones; which host a topic lives on does not depend on them."""
    hosts: list[Any] = ["redis://a/0", {"address": "redis://b/7"}, {"host": "c", "port": 6379, "db": 3}]
    with override_settings(REALTIME={"REDIS_URL": "redis://a", "KEY_PREFIX": "shop:"}):
        layer, plain = RedisChannelLayer(hosts), RedisChannelLayer(["redis://a", "redis://b", "redis://c"])
    starts = {0: "shop:", 1: "shop:db7:", 2: "shop:db3:"}
    topics = [f"news.{number}" for number in range(50)]
    assert {layer.shard_of(topic) for topic in topics} == {0, 1, 2}
    for topic in topics:
        assert layer.shard_of(topic) == plain.shard_of(topic)
        assert layer.redis_channel(topic) == f"{starts[layer.shard_of(topic)]}asgi__group__{topic}"


@pytest.mark.parametrize("prefix", ["db1:", "shop:db12:"])
def test_a_prefix_like_the_channels_of_another_database_is_refused(prefix: str) -> None:
    """Otherwise the site "shop:db1:" on database 0 would receive messages of the site "shop:" on database 1."""
    with (
        override_settings(REALTIME={"REDIS_URL": "redis://localhost", "KEY_PREFIX": prefix}),
        pytest.raises(ImproperlyConfigured, match=r'REALTIME\["KEY_PREFIX"\] is .* use another ending'),
    ):
        conf.get_settings()


def test_pages_name_the_channels_as_they_are() -> None:
    """For people who write other programs, and for those who write access rules."""
    page = (DOCS / "how-to/send-from-another-program.md").read_text()
    rows = re.findall(r'^\| `"(.*)"` \| `(redis://\S+)` \| `(\S+)` \|$', page, re.MULTILINE)
    assert len(rows) == 4
    for prefix, url, channel in rows:
        assert Keys(prefix, database=clients.database_of(url)).ingress_channel() == channel
    page = (DOCS / "reference/redis-keys.md").read_text()
    cells = [
        line.split(" | ")[1:] for line in page.splitlines() if line.startswith("| ") and line.count("<random>") > 1
    ]
    assert len(cells) == 2
    for cell in cells:
        plain, *others = (re.findall("`([^`]+)`", text) for text in cell)
        assert others == [[Keys("shop:", database=number).channel(name) for name in plain] for number in (0, 3)]
