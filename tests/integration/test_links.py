"""Links in what leaves the site: absolute, by a setting or by the Sites framework."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.checks import run_checks

from notifications import kinds, services
from notifications.content.links import with_absolute_url
from notifications.delivery.bot import Bot
from notifications.kinds import render, render_digest
from notifications.models import Destination
from notifications.transports import Address, Message, Transport
from notifications.transports.apprise import AppriseTransport
from notifications.transports.email import EmailTransport
from notifications.transports.webhook import WebhookTransport
from project.settings import BASE_DIR
from realtime.redis.keys import Keys
from tests.support.messages import envelope
from tests.support.receivers import http_receiver, mail_receiver
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
CONSOLE = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
EMAIL = {"BACKEND": "notifications.transports.email.EmailTransport"}
LINK = "https://shop.example/invoices/7/"

# What a process with the Sites framework says.
SITES = """
import json, django
django.setup()
from django.core.checks import run_checks
from django.core.management import call_command
from notifications.content.links import base_url
call_command("migrate", verbosity=0)
from django.contrib.sites.models import Site
Site.objects.update_or_create(pk=1, defaults={"domain": "shop.example"})
print(json.dumps([base_url(), [message.id for message in run_checks(tags=["notifications"])]]))
"""


class Recording(Transport):
    """Keeps what it is given."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name=name)
        self.messages: list[Message] = []

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key="1")]

    async def send(self, message: Message, address: Address) -> str:
        self.messages.append(message)
        return "taken"


async def test_a_path_is_a_whole_address_everywhere(
    redis_server: RedisServer, keys: Keys, signalbox: Any, alice: User
) -> None:
    """In mails and chats below the words, and in the data of webhooks and of any other transport, as of pushes."""
    names = ("email", "chat", "webhook", "push")
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": dict.fromkeys(names, CONSOLE),
        "DEFAULT_TRANSPORTS": list(names),
        "BASE_URL": "https://shop.example/",
    }
    await User.objects.all().aupdate(email="alice@example.com")
    with mail_receiver() as mails, http_receiver() as server:
        signalbox.MAILERS = mails.mailers
        secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"
        await Destination.objects.acreate(user=alice, transport="webhook", address=f"{server.url}/hook", secret=secret)
        chat = AppriseTransport(name="chat", urls=[f"json://127.0.0.1:{server.port}/chat"])
        other = Recording(name="push")
        bot = Bot(
            {
                "email": EmailTransport(name="email"),
                "chat": chat,
                "webhook": WebhookTransport(name="webhook", allow_private=True),
                "push": other,
            }
        )
        async with working(redis_server.url, keys, bot, group="bot") as worker:
            await services.anotify(alice, "Your invoice", title="Invoice", url="/invoices/7/")
            await wait_until(lambda: worker.statistics().handled_count == 1, seconds=90)
        (mail,) = mails.messages
        body = mail.get_body(("plain",))
        assert body is not None and body.get_content().strip().splitlines() == ["Your invoice", "", LINK]
        by_path = {request.path: request.body.decode() for request in server.requests}
        assert LINK in by_path["/chat"] and f'"url":"{LINK}"' in by_path["/hook"]
        assert other.messages[0].notification.url == LINK


@pytest.mark.parametrize(
    ("base", "url", "absolute"),
    [
        ("https://shop.example", "/a?b#c", "https://shop.example/a?b#c"),
        ("http://localhost:8000/", "/a", "http://localhost:8000/a"),
        ("https://shop.example", "https://other.example/a", "https://other.example/a"),
        ("https://shop.example", "", ""),
        ("", "/a", "/a"),
    ],
)
def test_only_a_path_is_completed(settings: Any, base: str, url: str, absolute: str) -> None:
    """And only if the address of the site is known."""
    settings.NOTIFICATIONS = {"BASE_URL": base}
    assert with_absolute_url(envelope(url=url)).url == absolute


@pytest.mark.parametrize(
    ("given", "base", "warnings"),
    [
        ({}, "", ["notifications.W003"]),
        ({"GIVEN_SITE_ID": "1"}, "https://shop.example", []),
        ({"GIVEN_SITE_ID": "9"}, "", []),
        ({"GIVEN_SITE_ID": "1", "GIVEN_BASE_URL": "http://given.example"}, "http://given.example", []),
    ],
)
def test_the_sites_framework_knows_it_too(
    given: dict[str, str], base: str, warnings: list[str], tmp_path: Path
) -> None:
    """The setting counts first; a project that has the framework and has named no site has no address."""
    environment = {
        **os.environ,
        **given,
        "DJANGO_SETTINGS_MODULE": "tests.support.sites_settings",
        "VAR_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", SITES]
    done = subprocess.run(command, cwd=BASE_DIR, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [base, warnings]


def test_a_transport_that_shows_links_needs_the_address(settings: Any) -> None:
    """It is said when the process starts; one whose links are data needs none."""
    settings.NOTIFICATIONS = {"TRANSPORTS": {"email": EMAIL, "console": CONSOLE}}
    (message,) = run_checks(tags=["notifications"])
    assert message.id == "notifications.W003"
    assert message.msg.startswith("Messages by email leave out links")
    assert 'NOTIFICATIONS["BASE_URL"]' in str(message.hint)
    settings.NOTIFICATIONS = {"TRANSPORTS": {"email": EMAIL, "console": CONSOLE}, "BASE_URL": "https://shop.example"}
    assert run_checks(tags=["notifications"]) == []


@pytest.mark.parametrize("wrong", ["shop.example", "ftp://shop.example", "https://", "https://shop.example/app/", "/"])
def test_what_is_no_address_of_a_site_is_refused(settings: Any, wrong: str) -> None:
    """With what to write instead."""
    settings.NOTIFICATIONS = {"BASE_URL": wrong}
    (message,) = run_checks(tags=["notifications"])
    assert message.id == "notifications.E001"
    assert 'NOTIFICATIONS["BASE_URL"] is' in message.msg and '"https://example.com"' in message.msg


def test_a_link_is_written_once_and_never_relative(alice: User) -> None:
    """Not below words that have it already, nor a path that leads nowhere from a mail."""
    plain = kinds.find_kind("undeclared")
    for message, url, body in (
        ("Look", "https://shop.example/a", "Look\n\nhttps://shop.example/a"),
        ("Look: https://shop.example/a!", "https://shop.example/a", "Look: https://shop.example/a!"),
        ("Look", "/a", "Look"),
    ):
        said = envelope(message=message, url=url)
        assert render(plain, "email", said, alice).body_with_link == body
        assert ("/a" in render_digest(plain, "email", [said], alice).body) == ("https" in body)


async def test_a_template_says_the_link_where_it_wants_to(
    signalbox: Any, alice: User, redis_server: RedisServer, keys: Keys, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the whole address; nothing is added to its words."""
    monkeypatch.setattr(kinds, "_kinds", {})
    type("Billed", (kinds.Kind,), {"key": "billed", "label": "Billed"})
    folder = tmp_path / "notifications/kinds/billed"
    folder.mkdir(parents=True)
    (folder / "body.txt").write_text("Pay at {{ notification.url }} now")
    signalbox.TEMPLATES = [{**signalbox.TEMPLATES[0], "DIRS": [tmp_path]}]
    signalbox.NOTIFICATIONS = {"BASE_URL": "https://shop.example"}
    other = Recording(name="console")
    async with working(redis_server.url, keys, Bot({"console": other}), group="bot") as worker:
        await sync_to_async(services.notify)(alice, "Your invoice", kind="billed", url="/invoices/7/")
        await wait_until(lambda: worker.statistics().handled_count == 1)
    assert other.messages[0].texts.body_with_link == f"Pay at {LINK} now"
