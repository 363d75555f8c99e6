"""Names whose name server does not answer: only the deliveries to these names are affected."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User

from notifications import services
from notifications.delivery.bot import Bot
from notifications.models import Delivery, Destination
from notifications.transports import names
from notifications.transports.email import EmailTransport
from notifications.transports.http import post
from notifications.transports.names import USER_LIMIT, Resolver
from notifications.transports.silence import PutAside
from notifications.transports.webhook import WebhookTransport
from realtime.redis.keys import Keys
from tests.support.receivers import HttpReceiver, MailReceiver, Reply, http_receiver, mail_receiver
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"


class NameServer:
    """Replaces the system resolver: names in `.silent.example` get no answer until the gate opens, others lead here."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked: list[str] = []
        self._really = socket.getaddrinfo

    def resolve(self, host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        self.asked.append(host)
        if host.endswith(".silent.example"):
            self.gate.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._really("127.0.0.1" if host.endswith(".example") else host, port, *arguments, **options)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """In place of the system's."""
    found = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", found.resolve)
    try:
        yield found
    finally:
        found.gate.set()


@pytest.fixture
def server() -> Iterator[HttpReceiver]:
    with http_receiver() as server:
        yield server


@pytest.fixture
def mail_server() -> Iterator[MailReceiver]:
    with mail_receiver() as server:
        yield server


async def test_nobody_else_notices(
    redis_server: RedisServer,
    keys: Keys,
    alice: User,
    bob: User,
    name_server: NameServer,
    server: HttpReceiver,
    mail_server: MailReceiver,
    signalbox: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten addresses of one user hang; another one's webhooks and mails arrive, each at the first attempt."""
    backend = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": {"webhook": backend, "email": backend},
        "DEFAULT_TRANSPORTS": ["webhook", "email"],
    }
    signalbox.MAILERS = mail_server.mailers
    await User.objects.all().aupdate(email="x@mail.example")
    for number in range(10):
        address = f"http://{number}.silent.example:{server.port}/"
        await Destination.objects.acreate(user=alice, transport="webhook", address=address, secret=SECRET)
    address = f"http://good.example:{server.port}/bob"
    await Destination.objects.acreate(user=bob, transport="webhook", address=address, secret=SECRET)
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 3.0)

    def silent_count() -> int:
        return sum(host.endswith(".silent.example") for host in name_server.asked)

    bot = Bot(
        {
            "webhook": WebhookTransport(name="webhook", allow_private=True, timeout_seconds=30),
            "email": EmailTransport(name="email"),
        }
    )
    # As a thread of the event loop, of which there are few, would be needed for names.
    asyncio.get_running_loop().set_default_executor(one_thread := ThreadPoolExecutor(1))
    async with working(redis_server.url, keys, bot, group="bot", batch_size=1, concurrency=20):
        await services.anotify(alice, "Hello")
        await wait_until(lambda: silent_count() == USER_LIMIT, seconds=90)
        for number in range(10):
            await services.anotify(bob, f"Hello {number}")
        mine = Delivery.objects.filter(notification__recipient=bob, state="sent", attempts=1)

        async def are_sent() -> bool:
            return await mine.acount() == 20

        await wait_until(are_sent, seconds=90)
    assert [request.path for request in server.requests] == ["/bob"] * 10
    # Hers arrive too, where they can.
    assert len(mail_server.messages) == 11
    assert silent_count() == USER_LIMIT
    one_thread.shutdown()


async def test_a_lookup_has_a_deadline_and_its_name_is_put_aside(
    name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further requests are refused at once. However many there are, they block only one thread."""
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 1.0)
    resolver = Resolver()
    results = await asyncio.gather(
        *(resolver.resolve("one.silent.example", 80, user=user) for user in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results] == [TimeoutError] * 5
    await wait_until(lambda: name_server.asked == ["one.silent.example"])
    # The callers' time began with the lookup, the name server's when a thread asked it: a little later.
    (lookup,) = resolver._lookups.values()
    await wait_until(lambda: lookup.silent_seconds > names.LOOKUP_SECONDS)
    with pytest.raises(PutAside, match=r"the name server of one\.silent\.example has not answered for"):
        await resolver.resolve("one.silent.example", 80, user=6)
    name_server.gate.set()
    await wait_until(lambda: not resolver._lookups)
    with pytest.raises(PutAside, match="paused for 30 s"):
        await resolver.resolve("one.silent.example", 80, user=6)
    assert name_server.asked == ["one.silent.example"]


async def test_a_user_has_few_lookups_at_a_time(name_server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's next lookup waits for them, and fails after a time; another user's lookup is not affected."""
    # Good names are answered in this time, also when the machine stands still for a moment.
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 3.0)
    resolver = Resolver()
    mine = [asyncio.create_task(resolver.resolve(f"{n}.silent.example", 80, user=1)) for n in range(USER_LIMIT)]
    await wait_until(lambda: len(name_server.asked) == USER_LIMIT)
    with pytest.raises(TimeoutError, match=r"good\.example was not looked up"):
        await resolver.resolve("good.example", 80, user=1)
    assert await resolver.resolve("good.example", 80, user=2) == ["127.0.0.1"]
    await asyncio.wait(mine)
    name_server.gate.set()
    await wait_until(lambda: not resolver._lookups)
    assert await resolver.resolve("good.example", 80, user=1) == ["127.0.0.1"]


async def test_who_waits_for_a_thread_is_not_put_aside(
    name_server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that hang take all threads; a name that was not asked about yet has not been silent."""
    monkeypatch.setattr(names, "THREADS_LIMIT", 1)
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 2.0)
    resolver = Resolver()
    for host, why in (("one.silent.example", "did not answer"), ("good.example", "good.example was not looked up")):
        with pytest.raises(TimeoutError, match=why):
            await resolver.resolve(host, 80, user=host)
    # Still waiting for a thread: nobody is told that its name server is silent.
    with pytest.raises(TimeoutError, match=r"good\.example was not looked up"):
        await resolver.resolve("good.example", 80, user=3)
    name_server.gate.set()
    await wait_until(lambda: not resolver._lookups)
    assert await resolver.resolve("good.example", 80, user=3) == ["127.0.0.1"]


async def test_one_that_waits_for_a_lookup_gets_its_turn(name_server: NameServer) -> None:
    """As soon as one of them has ended."""
    resolver = Resolver()
    for number in range(USER_LIMIT):
        asyncio.get_running_loop().create_task(
            resolver.resolve(f"{number}.silent.example", 80, user=1)
        ).add_done_callback(lambda task: task.exception())
    await wait_until(lambda: len(name_server.asked) == USER_LIMIT)
    waiting = asyncio.create_task(resolver.resolve("good.example", 80, user=1))
    await asyncio.sleep(0)
    name_server.gate.set()
    assert await waiting == ["127.0.0.1"]


async def test_a_receiver_that_never_answers_is_put_aside(server: HttpReceiver) -> None:
    """After some silences in a row; another address of the same host is reached meanwhile, and an answer ends it."""
    gate = threading.Event()
    server.reply = lambda request: Reply(gate=gate if request.path == "/silent" else None)
    silent, good = (f"{server.url}/{name}" for name in ("silent", "good"))

    async def call(url: str, seconds: float) -> None:
        await post(url, b"", {}, timeout_seconds=seconds, allow_private=True, user=1)

    for _ in range(3):
        with pytest.raises(TimeoutError):
            await call(silent, 2.0)
    # The last one may still be on its way through the server.
    await wait_until(lambda: len(server.requests) == 3)
    with pytest.raises(PutAside, match="did not answer 3 times in a row: paused for 30 s"):
        await call(silent, 30)
    assert len(server.requests) == 3
    await call(good, 30)
    gate.set()
