"""Chat services by Apprise, with a local one."""

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Iterator

import pytest
from apprise.plugins.discord import NotifyDiscord
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured

from notifications.models import Destination
from notifications.transports import Address, AddressGone
from notifications.transports.apprise import PARTS_LIMIT, AppriseTransport
from realtime.exceptions import PermanentError
from tests.support.messages import message
from tests.support.receivers import HttpReceiver, Reply, http_receiver

DISCORD = "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js"
CHAT = AppriseTransport(name="chat")
MESSAGE = message(body="Unterwegs – ütf <b>")


@pytest.fixture
def service() -> Iterator[HttpReceiver]:
    with http_receiver() as service:
        yield service


async def test_a_service_gets_title_and_text(service: HttpReceiver) -> None:
    """The service is given by its Apprise URL."""
    assert await CHAT.send(MESSAGE, Address(key="1", value=f"json://127.0.0.1:{service.port}/room")) != ""
    (request,) = service.requests
    said = json.loads(request.body)
    assert (request.path, said["title"], said["message"]) == ("/room", "Order 7", "Unterwegs – ütf <b>")


@pytest.fixture
def discord(service: HttpReceiver, monkeypatch: pytest.MonkeyPatch) -> HttpReceiver:
    """Apprise's Discord service with another host."""
    monkeypatch.setattr(NotifyDiscord, "notify_url", service.url)
    monkeypatch.setattr(NotifyDiscord, "request_rate_per_sec", 0)
    service.reply = Reply(status=204, body=b"")
    return service


def said_in(service: HttpReceiver) -> list[str]:
    return [json.loads(request.body)["content"] for request in service.requests]


async def test_a_long_text_is_split_at_the_services_limit(discord: HttpReceiver) -> None:
    """Discord accepts 2,000 characters. Of 2,500 nothing is lost. A text of any length becomes a few messages."""
    text = " ".join(f"{number:04}" for number in range(500))
    await CHAT.send(message(body=text), Address(key="1", value=DISCORD))
    parts = said_in(discord)
    assert len(parts) == 2 and all(len(part) <= 2000 for part in parts)
    assert all(f"{number:04}" in "\n".join(parts) for number in range(500))
    discord.requests.clear()
    await CHAT.send(message(body="word " * 100_000), Address(key="1", value=DISCORD))
    assert all(len(part) <= 2000 for part in said_in(discord))
    assert len(discord.requests) <= PARTS_LIMIT + 1
    assert said_in(discord)[-1].endswith("…")


async def test_mentions_of_everybody_are_disarmed(discord: HttpReceiver) -> None:
    """In titles and texts, because they may contain a stranger's words, unless the project allows mentions."""
    calling = message(subject="Hi @here", body="@everyone <@&123> look, me@example.com and @alice")
    await CHAT.send(calling, Address(key="1", value=DISCORD))
    (said,) = said_in(discord)
    assert said.replace("\u200b", "|") == "Hi @|here\r\n@|everyone <|@&123> look, me@example.com and @alice"
    await AppriseTransport(name="chat", allow_mentions=True).send(calling, Address(key="1", value=DISCORD))
    assert "@everyone" in said_in(discord)[-1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("status", [404, 410])
async def test_a_destination_that_no_longer_exists_is_disabled(discord: HttpReceiver, alice: User, status: int) -> None:
    """Its webhook was deleted. The project's own destination stays: staff must fix it."""
    discord.reply = Reply(status=status)
    await Destination.objects.acreate(user=alice, transport="chat", address=DISCORD)
    (address,) = await sync_to_async(CHAT.addresses_of)(alice)
    with pytest.raises(AddressGone, match="the address is disabled"):
        await CHAT.send(MESSAGE, address)
    row = await Destination.objects.aget()
    assert row.disabled_at is not None and f"error={status}" in row.disabled_reason
    assert await sync_to_async(CHAT.addresses_of)(alice) == []
    with pytest.raises(PermanentError) as caught:
        await CHAT.send(MESSAGE, Address(key="project 0", value=DISCORD))
    assert not isinstance(caught.value, AddressGone)


@pytest.mark.parametrize(
    ("status", "error"), [(400, PermanentError), (401, OSError), (403, OSError), (429, OSError), (500, OSError)]
)
async def test_a_refusal_is_permanent_or_temporary(discord: HttpReceiver, status: int, error: type[Exception]) -> None:
    """Either the same message would be refused again, or an operator can fix the cause."""
    discord.reply = Reply(status=status)
    with pytest.raises(error, match=f"error={status}|Too Many|rate"):
        await CHAT.send(MESSAGE, Address(key="1", value=DISCORD))


async def test_a_service_that_refuses_is_a_failed_attempt(service: HttpReceiver) -> None:
    """The answer has Apprise's log."""
    service.reply = Reply(status=500)
    with pytest.raises(OSError, match="500"):
        await CHAT.send(MESSAGE, Address(key="1", value=f"json://127.0.0.1:{service.port}/"))
    assert len(service.requests) == 1


@pytest.mark.parametrize("separator", [",", " ", "%2C"])
async def test_a_url_is_one_service(service: HttpReceiver, separator: str) -> None:
    """Even if Apprise would read it as a list: the second URL could lead anywhere."""
    both = separator.join(f"json://127.0.0.1:{service.port}/{name}" for name in ("first", "second"))
    with contextlib.suppress(PermanentError):
        await CHAT.send(MESSAGE, Address(key="1", value=both))
    assert [request.path for request in service.requests if not request.path.startswith("/first")] == []
    assert len(service.requests) <= 1


async def test_a_url_is_in_no_log(service: HttpReceiver, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO and above, for success and failure. The answer does not contain it either."""
    caplog.set_level(logging.INFO)
    url = f"json://alice:PASSWORD@127.0.0.1:{service.port}/SECRET"
    said = await CHAT.send(MESSAGE, Address(key="1", value=url))
    service.reply = Reply(status=500)
    with pytest.raises(OSError, match="500") as caught:
        await CHAT.send(MESSAGE, Address(key="1", value=url))
    assert len(service.requests) == 2
    told = f"{caplog.text} {said} {caught.value}"
    assert "PASSWORD" not in told
    assert "SECRET" not in told


async def test_a_service_that_does_not_answer_times_out(service: HttpReceiver) -> None:
    """In the thread itself, so that the thread has ended before the next attempt."""
    gate = threading.Event()
    service.reply = Reply(gate=gate)
    quick = AppriseTransport(name="chat", timeout_seconds=0.1)
    with pytest.raises(OSError, match="Connection error"):
        await asyncio.wait_for(quick.send(MESSAGE, Address(key="1", value=f"json://127.0.0.1:{service.port}/")), 20)
    gate.set()


@pytest.mark.django_db(transaction=True)
async def test_the_project_and_the_user_have_services(alice: User) -> None:
    """A destination that is no longer allowed is left out."""
    chat = AppriseTransport(name="chat", urls=["json://chat.example/"])
    for address in (
        "tgram://123456789:abcdefg_hijklmnop/12315544/",
        "json://127.0.0.1/",
        f"{DISCORD},json://127.0.0.1/",
    ):
        await Destination.objects.acreate(user=alice, transport="chat", address=address)
    found = list(await sync_to_async(chat.find_addresses)(alice))
    assert [address.value for address in found] == [
        "json://chat.example/",
        "tgram://123456789:abcdefg_hijklmnop/12315544/",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "json://127.0.0.1/",
        "mailto://user:pass@internal.example",
        "file:///etc/passwd",
        "slack://",
        "no url",
        f"{DISCORD}?template=/etc/passwd",
        f"{DISCORD},json://127.0.0.1:9/x",
        f"{DISCORD} json://127.0.0.1:9/x",
        f"{DISCORD}\tjson://127.0.0.1:9/x",
        f" {DISCORD}",
    ],
)
def test_users_may_name_services_with_fixed_hosts_only(url: str) -> None:
    """Others would let a user make this server connect to any host, or read a file."""
    with pytest.raises(ValueError, match="not a URL, without options, of one of these services: discord"):
        CHAT.check_address(url)
    CHAT.check_address(DISCORD)


def test_an_unsupported_url_is_reported_at_the_start() -> None:
    """By its number, because it may contain a password."""
    with pytest.raises(ImproperlyConfigured, match=r"urls\[1\] is not a URL that Apprise supports") as caught:
        AppriseTransport(name="chat", urls=["json://chat.example/", "nope://user:secret@x"])
    assert "secret" not in str(caught.value)
