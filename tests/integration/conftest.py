"""What the tests on real engines share: event loops, clients of the WebSocket end, publications and multiplexers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
import redis
import uvicorn
import uvloop
from channels.layers import get_channel_layer
from django.contrib.auth.models import User

from realtime.broker.publication import Publication, parse
from realtime.pubsub.multiplexer import Multiplexer
from realtime.statistics import collect
from realtime.tasks.django_api import DJANGO_TASKS
from tests.integration.clients import HOST, Client, Connect, nothing_is_left, session_of
from tests.integration.hearing import Ear, layer
from tests.integration.multiplexing import running_multiplexer
from tests.integration.serving import Application, serving
from tests.support.growth import Growth
from tests.support.redis_server import RedisServer
from tests.support.tasks import Tasks, tasks_of
from tests.support.waiting import wait_until


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's own event loop; and uvloop too, where a module asks: `pytest.mark.asyncio(loop_factories=[…])`."""
    marker = item.get_closest_marker("asyncio")
    both = marker is not None and "loop_factories" in marker.kwargs
    return {"asyncio": asyncio.new_event_loop} | ({"uvloop": uvloop.new_event_loop} if both else {})


@pytest.fixture
def growth() -> Growth:
    """What is counted from here on."""
    return Growth()


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob")


@pytest.fixture
def sessions(alice: User, bob: User) -> dict[User, str]:
    """A session cookie of each."""
    return {user: session_of(user) for user in (alice, bob)}


@pytest.fixture
async def connect(signalbox: Any, sessions: dict[User, str]) -> AsyncIterator[Connect]:
    """Open a WebSocket as a user, or as nobody; all are closed when the test ends, and nothing is left of them."""
    signalbox.ALLOWED_HOSTS = ["testserver"]
    clients: list[Client] = []

    async def connect(
        user: User | None = None,
        *,
        path: str = "/ws/",
        headers: tuple[Any, ...] = (),
        subprotocols: tuple[str, ...] = (),
    ) -> Client:
        cookies = [(b"cookie", f"sessionid={sessions[user]}".encode())] if user else []
        client = Client(path, [HOST, *cookies, *headers], list(subprotocols))
        clients.append(client)
        await client.send_input({"type": "websocket.connect"})
        return client

    yield connect
    for client in clients:
        if not client.future.done():
            await client.disconnect()
    await wait_until(lambda: collect().clients.open_count == 0)
    await nothing_is_left()
    await get_channel_layer().flush()


# A web server ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def application() -> Application:
    """It detaches each connection."""
    return Application()


@pytest.fixture
async def server(application: Application) -> AsyncIterator[uvicorn.Server]:
    """It serves the application, and pings nobody."""
    async with serving(application) as server:
        yield server


# Tasks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def admin_tasks(signalbox: Any, redis_client: redis.Redis, key_prefix: str) -> Iterator[None]:
    """Two queues of tasks in Redis, and a backend of another kind. No task is left."""
    signalbox.TASKS = {
        "default": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": ["default", "mail"]},
        "other": {"BACKEND": f"{DJANGO_TASKS}.backends.dummy.DummyBackend"},
    }
    yield
    for name in redis_client.scan_iter(match=f"*{key_prefix}tasks*"):
        redis_client.delete(name)


# Publishing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_redis(settings: Any) -> Iterator[RedisServer]:
    """A server that nobody else talks to, and that may be killed; the site's channel layer is on it."""
    with RedisServer() as server:
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "realtime.layer.RedisChannelLayer", "CONFIG": {"hosts": [server.url]}}
        }
        yield server


@pytest.fixture
def kept(redis_client: redis.Redis) -> Callable[[str], list[Publication]]:
    """What Redis keeps of a topic, oldest first."""

    def read(topic: str) -> list[Publication]:
        payloads = redis_client.lrange(layer().keys.topic_history(topic), 0, -1)
        return [publication for payload in payloads[::-1] if (publication := parse(payload, layer().crypter))]

    return read


@pytest.fixture
def ear(redis_client: redis.Redis) -> Iterator[Callable[[str], Ear]]:
    ears: list[Ear] = []

    def make(topic: str) -> Ear:
        ears.append(Ear(redis_client, topic))
        return ears[-1]

    yield make
    for each in ears:
        each.close()


# Background tasks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tasks(signalbox: Any, redis_client: redis.Redis, key_prefix: str) -> Iterator[Tasks]:
    """TASKS on the run's Redis, and workers for them."""
    with tasks_of(signalbox, redis_client, key_prefix) as tasks:
        yield tasks


# The multiplexer ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def multiplexer(redis_server: RedisServer) -> AsyncIterator[Multiplexer]:
    async with running_multiplexer(redis_server.url) as multiplexer:
        yield multiplexer


@pytest.fixture
def name(key_prefix: str) -> Callable[[str], str]:
    """Gives a channel name of this test's own."""
    return lambda text: f"{key_prefix}{text}"
