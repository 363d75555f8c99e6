"""Chat services by Apprise, with a local one."""

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Iterator

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured

from notifications.models import Destination
from notifications.transports import Address
from notifications.transports.apprise import AppriseTransport
from realtime.exceptions import PermanentError
from tests.messages import message
from tests.receivers import HttpReceiver, Reply, http_receiver

DISCORD = "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js"
CHAT = AppriseTransport(name="chat")
MESSAGE = message(body="Unterwegs – ütf <b>")


@pytest.fixture
def service() -> Iterator[HttpReceiver]:
    with http_receiver() as service:
        yield service


async def test_a_service_gets_title_and_text(service: HttpReceiver) -> None:
    """By its URL, as Apprise spells it."""
    assert await CHAT.send(MESSAGE, Address(key="1", value=f"json://127.0.0.1:{service.port}/room")) != ""
    (request,) = service.requests
    said = json.loads(request.body)
    assert (request.path, said["title"], said["message"]) == ("/room", "Order 7", "Unterwegs – ütf <b>")


async def test_a_service_that_refuses_is_a_failed_attempt(service: HttpReceiver) -> None:
    """With what Apprise has to say about it."""
    service.reply = Reply(status=500)
    with pytest.raises(OSError, match="500"):
        await CHAT.send(MESSAGE, Address(key="1", value=f"json://127.0.0.1:{service.port}/"))
    assert len(service.requests) == 1


@pytest.mark.parametrize("separator", [",", " ", "%2C"])
async def test_a_url_is_one_service(service: HttpReceiver, separator: str) -> None:
    """Whatever Apprise would take for a list of them: the second one might be anywhere."""
    both = separator.join(f"json://127.0.0.1:{service.port}/{name}" for name in ("first", "second"))
    with contextlib.suppress(PermanentError):
        await CHAT.send(MESSAGE, Address(key="1", value=both))
    assert [request.path for request in service.requests if not request.path.startswith("/first")] == []
    assert len(service.requests) <= 1


async def test_a_url_is_in_no_log(service: HttpReceiver, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO and above, whether the service takes it or not; what it answered says none either."""
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


async def test_a_service_that_says_nothing_is_left(service: HttpReceiver) -> None:
    """By the thread itself, which then has ended when the next attempt begins."""
    gate = threading.Event()
    service.reply = Reply(gate=gate)
    quick = AppriseTransport(name="chat", timeout_seconds=0.1)
    with pytest.raises(OSError, match="Connection error"):
        await asyncio.wait_for(quick.send(MESSAGE, Address(key="1", value=f"json://127.0.0.1:{service.port}/")), 20)
    gate.set()


@pytest.mark.django_db(transaction=True)
async def test_the_project_and_the_user_have_services(alice: User) -> None:
    """A destination that is not allowed any more is left out."""
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
    """Others would make this server talk to a host, or read a file, of the user's choice."""
    with pytest.raises(ValueError, match="not a URL, without options, of one of these services: discord"):
        CHAT.check_address(url)
    CHAT.check_address(DISCORD)


def test_a_url_that_apprise_does_not_know_is_said_at_the_start() -> None:
    """By its number: it may hold a password."""
    with pytest.raises(ImproperlyConfigured, match=r"urls\[1\] is no URL that Apprise knows") as caught:
        AppriseTransport(name="chat", urls=["json://chat.example/", "nope://user:secret@x"])
    assert "secret" not in str(caught.value)
