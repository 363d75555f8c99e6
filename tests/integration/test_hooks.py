"""Functions that a project supplies: if one fails, the failure is logged and no notification is lost."""

import datetime
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.db import OperationalError

from notifications import kinds, services
from notifications.database.clock import moment_of
from notifications.delivery.bot import Bot
from notifications.kinds import Kind, find_kind, language_of, render, time_zone_of
from notifications.models import Delivery, Digest, Notification
from notifications.transports import Address, Message, Transport
from notifications.transports.console import ConsoleTransport
from realtime.redis.keys import Keys
from tests.integration.clients import Connect
from tests.support.domain import make_users
from tests.support.messages import envelope, message
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.timing import begun, declare, own_registry, streamed
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "own_registry")]
__all__ = ["own_registry"]
KOLKATA = ZoneInfo("Asia/Kolkata")
# What the hook under test does. The settings name `hook`, which calls it.
_answer: Callable[[Any], Any] = lambda user: None  # noqa: E731 - replaced by each test


def hook(user: Any) -> Any:
    return _answer(user)


async def async_hook(user: Any) -> str:
    return "Asia/Kolkata"


def raise_(error: Exception) -> Any:
    raise error


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, signalbox: Any) -> Callable[[str, Callable[[Any], Any]], None]:
    """Set NOTIFICATIONS[key] to this function."""

    def answer(key: str, function: Callable[[Any], Any]) -> None:
        signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, key: f"{__name__}.hook"}
        monkeypatch.setattr(f"{__name__}._answer", function)

    return answer


@pytest.fixture
def bot_on(redis_server: RedisServer, keys: Keys) -> Any:
    """A worker of the group `bot` with these transports."""

    def run(*transports: Transport) -> Any:
        bot = Bot({transport.name: transport for transport in transports})
        return working(redis_server.url, keys, bot, group="bot", batch_size=1, concurrency=4)

    return run


class NameOfPytz:
    """Like a pytz zone: it has a name, but Python's datetime arithmetic is wrong with it."""

    zone = "Asia/Kolkata"


GOOD_ZONES = {
    "its name": lambda user: "Asia/Kolkata",
    "a ZoneInfo": lambda user: KOLKATA,
    "a fixed offset": lambda user: datetime.timezone(datetime.timedelta(hours=5, minutes=30)),
    "one of pytz": lambda user: NameOfPytz(),
}
# And what is logged; None if the function did not cause the failure.
BAD_ANSWERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "it raises": (lambda user: raise_(AttributeError("no profile")), "no profile"),
    "a number": (lambda user: 5, "returned a int"),
    "bytes": (lambda user: b"de", "returned a bytes"),
    "a coroutine": (async_hook, "it is async"),
    "a user": (lambda user: user, "returned a User"),
    "nothing": (lambda user: None, ""),
    "an empty text": (lambda user: "", ""),
    "nobody knows it": (lambda user: "xx-nowhere", ""),
    "an endless name": (lambda user: "x" * 10_000, ""),
}


@pytest.mark.parametrize("given", GOOD_ZONES.values(), ids=GOOD_ZONES)
def test_a_time_zone_may_be_given_in_many_ways(answer: Any, alice: User, given: Any) -> None:
    """The hook may return a name or a tzinfo object."""
    answer("TIME_ZONE_OF", given)
    moment = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
    assert moment.astimezone(time_zone_of(alice)).utcoffset() == datetime.timedelta(hours=5, minutes=30)


@pytest.mark.parametrize(("given", "said"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
@pytest.mark.parametrize("key", ["TIME_ZONE_OF", "LANGUAGE_OF"])
def test_a_function_that_fails_is_logged_and_its_default_used(
    answer: Any, alice: User, settings: Any, caplog: pytest.LogCaptureFixture, key: str, given: Any, said: str
) -> None:
    """It fails for each notification, so it is logged only a few times, with its traceback."""
    settings.TIME_ZONE, settings.LANGUAGE_CODE = "Europe/Berlin", "de"
    answer(key, given)
    for _ in range(50):
        assert str(time_zone_of(alice)) == "Europe/Berlin"
        assert language_of(alice) == "de"
    assert (0 if not said else 1) <= len(caplog.records) <= (5 if said else 0)
    for record in caplog.records:
        assert key in record.getMessage()
        assert said in str(record.exc_info[1])


FAILURES: dict[str, Callable[[Any], Any]] = {
    "it raises": lambda user: raise_(KeyError("profile")),
    "its query fails": lambda user: User.objects.create(username=user.username),
}


@pytest.mark.parametrize("given", FAILURES.values(), ids=FAILURES)
def test_a_digest_is_planned_all_the_same(
    answer: Any, redis_client: redis.Redis, keys: Keys, alice: User, settings: Any, given: Any
) -> None:
    """At the hour of the project's time zone. A failed query of the hook does not end the transaction on PostgreSQL."""
    settings.TIME_ZONE = "America/New_York"
    answer("TIME_ZONE_OF", given)
    declare(transports=("console",), digest={"console": "daily"})
    services.notify(alice, "x", kind="build")
    services.notify(alice, "y")
    for each in streamed(redis_client, keys):
        begun(each)
    assert Delivery.objects.count() == 2
    ends_at = moment_of(Digest.objects.get().ends_at)
    assert ends_at.astimezone(ZoneInfo("America/New_York")).hour == 8


def test_a_database_that_is_away_is_no_fault_of_the_function(
    answer: Any, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """The bot waits for the database. With a default time zone, the digest would be sent at the wrong hour."""
    answer("TIME_ZONE_OF", lambda user: raise_(OperationalError("server closed the connection")))
    with pytest.raises(OperationalError):
        time_zone_of(alice)
    assert caplog.records == []


# Kinds ----------------------------------------------------------------------------------------------------------------


def test_a_kind_whose_functions_fail_is_delivered_by_default(
    redis_client: redis.Redis, keys: Keys, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    """Without `is_default`, the default applies. Without `context`, the text given to notify() is sent."""

    def fail(*args: Any) -> Any:
        raise RuntimeError("a defect")

    declare(transports=("console",), is_default=fail, context=fail)
    services.notify(alice, "From notify()", kind="build")
    (notification,) = streamed(redis_client, keys)
    (claim,) = begun(notification)
    assert claim.transport == "console"
    assert render(find_kind("build"), "console", notification.envelope, alice).body == "From notify()"
    assert {record.getMessage().split(" of ")[0] for record in caplog.records} == {"is_default()", "context()"}


@pytest.mark.parametrize("given", [None, "x", [], 5])
def test_a_context_that_is_none_leaves_the_words_of_notify(alice: User, given: Any) -> None:
    """The templates are not used, because values would be missing in them."""
    declare(context=lambda *args: given)
    said = envelope(kind="build", message="From notify()")
    assert render(find_kind("build"), "email", said, alice).body == "From notify()"


@pytest.mark.parametrize(
    "attributes",
    [
        {"transports": "email"},
        {"transports": 5},
        {"transports": (5,)},
        {"required": "email"},
        {"forbidden": [None]},
        {"fallback": {"email": 900}},
        {"fallback": {"email": "15m"}},
    ],
    ids=str,
)
def test_a_kind_with_attributes_of_a_wrong_type_is_refused(attributes: dict[str, Any]) -> None:
    """The error comes when the app is loaded, not from the bot for each notification."""
    with pytest.raises(ValueError, match=f"'build' has .*{next(iter(attributes))}"):
        type("Build", (Kind,), {"key": "build", "label": "Builds", **attributes})
    assert "build" not in kinds._kinds


def test_names_may_be_given_as_a_list(alice: User) -> None:
    """Lists in `required` and `forbidden` are converted to sets."""
    declare(transports=["console"], required=["console"], forbidden=["email"])
    assert find_kind("build").required | find_kind("build").forbidden == {"console", "email"}


# Transports -----------------------------------------------------------------------------------------------------------


class Odd(Transport):
    """A project's transport that returns a value of a wrong type."""

    addresses: Any = ()

    def find_addresses(self, recipient: Any) -> Any:
        return self.addresses

    async def send(self, message: Message, address: Address) -> Any:
        return None


@pytest.mark.parametrize(
    ("addresses", "state", "answer"),
    [
        ([Address(key="a")], "sent", "None"),
        (["alice@example.com"], "pending", "TypeError: find_addresses() returned a str, not an Address"),
        (None, "pending", "TypeError: 'NoneType' object is not iterable"),
        (5, "pending", "TypeError: 'int' object is not iterable"),
    ],
)
async def test_a_transport_that_gives_something_else_fails_alone(
    bot_on: Any, signalbox: Any, addresses: Any, state: str, answer: str
) -> None:
    """Its attempt is recorded with the error. The console's delivery is made."""
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": {
            "odd": {"BACKEND": f"{__name__}.Odd"},
            "console": {"BACKEND": "notifications.transports.console.ConsoleTransport"},
        },
        "DEFAULT_TRANSPORTS": ["odd", "console"],
        "DELIVERY_RETRY_SECONDS": 60,
    }
    odd = Odd(name="odd")
    odd.addresses = addresses
    async with bot_on(odd, ConsoleTransport(name="console")):
        await services.anotify(await sync_to_async(make_users)(1), "x")
        await _until_attempted(2)
    found = {row.transport: row async for row in Delivery.objects.all()}
    assert found["console"].state == "sent"
    assert (found["odd"].state, found["odd"].attempts) == (state, 1)
    assert found["odd"].answer.startswith(answer)


async def _until_attempted(count: int) -> None:
    attempted = Delivery.objects.filter(attempts=1, holder="")

    async def are_attempted() -> bool:
        return await attempted.acount() == count

    await wait_until(are_attempted)


async def test_send_message_may_be_a_plain_function() -> None:
    """It is called once, in a thread, and its result is not awaited: that would fail after the message was sent."""
    called: list[Any] = []
    transport = ConsoleTransport(name="console", send_message=lambda user_id, text: called.append((user_id, text)))
    assert await transport.send_in_time(message(body="Hello"), Address(key="console")) == "called"
    assert called == [(42, "Hello")]
    transport.close()


# REALTIME["ON_READ"] --------------------------------------------------------------------------------------------------


async def read_async(user_id: Any, ids: list[int]) -> None:
    """An async hook."""
    await database_sync_to_async(services.mark_read)(user_id, ids)


async def test_on_read_may_be_async(connect: Connect, alice: User, signalbox: Any) -> None:
    """The hook is awaited, and marks the notification as read."""
    signalbox.REALTIME = {**signalbox.REALTIME, "ON_READ": f"{__name__}.read_async"}
    event = await services.anotify(alice, "Hello")
    client = await connect(alice)
    await client.greeted()
    pk = (await event.notifications.aget()).pk
    await client.say(type="read", ids=[pk])
    await client.say(type="ping")
    while (await client.object())["type"] != "pong":
        pass
    assert (await Notification.objects.aget(pk=pk)).read_at is not None


async def test_on_read_that_cannot_be_imported_keeps_nobody_out(connect: Connect, alice: User, signalbox: Any) -> None:
    """A process that was started without checks still accepts connections. It refuses read marks."""
    signalbox.REALTIME = {**signalbox.REALTIME, "ON_READ": "shop.nowhere.read"}
    client = await connect(alice)
    await client.greeted()
    assert (await client.answer(type="read", ids=[1]))["code"] == "unsupported"
