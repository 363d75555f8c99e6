"""Fallback, digest and collapse key as a mailbox and a bell see them, with a real relay, bot and mail server."""

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.db import connection, transaction

from notifications import services
from notifications.inbox.queries import read_bell
from notifications.models import Delivery, Digest, Event, Notification
from realtime import conf
from realtime.redis.keys import Keys
from tests.support.receivers import MailReceiver, mail_receiver
from tests.support.redis_server import RedisServer
from tests.support.timing import ends, pass_time
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.acceptance, pytest.mark.django_db(transaction=True)]

ROOT = Path(__file__).resolve().parent.parent.parent
STREAM = Keys().stream("notifications")
# Enough for a machine with two busy cores.
SECONDS = 120.0
NOTIFICATIONS = {
    "INGRESS_LEASE_SECONDS": 0.6,
    "SWEEP_INTERVAL_SECONDS": 0.05,
    "DEFAULT_TRANSPORTS": ["email"],
    "TRANSPORTS": {"email": {"BACKEND": "notifications.transports.email.EmailTransport"}},
}
PENDING = ("pending", "")
SENT = ("sent", "accepted by the mail server")
READ = ("skipped", "read before it was due")
REPLACED = ("skipped", "replaced by a newer notification")


class Site:
    """Relay and bot in one process on the database of the test run, with a Redis and a mail server of their own."""

    def __init__(self, directory: Path, server: RedisServer, mails: MailReceiver) -> None:
        self.mails = mails
        self.redis_url = server.url
        self.redis = redis.Redis.from_url(server.url)
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.support.timed_settings",
            "VAR_DIR": str(directory),
            "DATABASE_NAME": str(connection.settings_dict["NAME"]),
            "REDIS_URL": server.url,
            "NOTIFICATIONS": json.dumps(NOTIFICATIONS),
            "MAILERS": json.dumps(mails.mailers),
        }
        self._log = directory / "log"
        with self._log.open("wb") as log:
            command = [sys.executable, "manage.py", "run_bot_subscriber"]
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def bodies(self) -> list[str]:
        """The text of each mail."""
        texts = []
        for mail in self.mails.messages:
            body = mail.get_body(("plain",))
            assert body is not None
            texts.append("\n".join(body.get_content().strip().splitlines()))
        return texts

    def is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return "running, consumer" in self._log.read_text()

    def is_all_handled(self) -> bool:
        """Whether the bot has handled every entry."""
        groups = [group for group in self.redis.xinfo_groups(STREAM) if group["name"] == b"bot"]
        newest = self.redis.xinfo_stream(STREAM)["last-generated-id"]
        return bool(groups) and groups[0]["pending"] == 0 and groups[0]["last-delivered-id"] == newest

    def stop(self) -> None:
        self.redis.close()
        self._process.terminate()
        self._process.wait(SECONDS)


@pytest.fixture(scope="module")
def relay_and_bot(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Its database is empty before each test, and all entries of earlier tests in Redis are finished."""
    with RedisServer() as server, mail_receiver() as mails:
        site = Site(tmp_path_factory.mktemp("site"), server, mails)
        try:
            wait_until_sync(site.is_ready, seconds=SECONDS)
            yield site
        finally:
            site.stop()


@pytest.fixture
def site(relay_and_bot: Site, settings: Any) -> Iterator[Site]:
    settings.REALTIME = {**settings.REALTIME, "REDIS_URL": relay_and_bot.redis_url}
    settings.NOTIFICATIONS = NOTIFICATIONS
    relay_and_bot.mails.messages.clear()
    yield relay_and_bot
    conf.sync_redis().close()


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", email="alice@example.com")


def wait_for(*expected: tuple[str, str]) -> None:
    """Wait until the deliveries, in order, have these states and answers."""
    wait_until_sync(lambda: ends() == list(expected), seconds=SECONDS)


def test_a_fallback_mails_what_is_unread_and_nothing_else(site: Site, alice: User) -> None:
    """One of two mentions is read within its fifteen minutes, so one mail is sent."""
    services.notify(alice, "Read in time", kind="mentioned")
    services.notify(alice, "Left unread", kind="mentioned")
    wait_for(PENDING, PENDING)
    services.mark_read(alice.pk, [Notification.objects.earliest("id").pk])
    pass_time(minutes=14)
    assert ends() == [PENDING, PENDING]
    pass_time(minutes=1)
    wait_for(READ, SENT)
    assert site.bodies() == ["Left unread"]


def test_a_fallback_waits_for_its_time(site: Site, alice: User) -> None:
    """By the real clock; one call may have a fallback of its own."""
    second = datetime.timedelta(seconds=1)
    event = services.notify(alice, "Soon", fallback={"email": second})
    wait_for(SENT)
    finished_at = Delivery.objects.get().finished_at
    assert finished_at is not None
    assert finished_at - event.created_at >= second


def test_a_digest_mails_once_what_is_unread(site: Site, alice: User) -> None:
    """Three comments, one of them read: one mail with two. Redelivered entries and later comments do not change it."""
    for text in "abc":
        services.notify(alice, f"Comment {text}", kind="commented")
    wait_for(PENDING, PENDING, PENDING)
    assert site.mails.messages == []
    with transaction.atomic():
        # The full hour may have come in between.
        Delivery.objects.update(digest=Digest.objects.earliest("id"))
        services.mark_read(alice.pk, [Notification.objects.order_by("id")[1].pk])
        pass_time(hours=2)
    wait_for(SENT, READ, SENT)
    assert [mail["Subject"] for mail in site.mails.messages] == ["Comments: 2 notifications"]
    assert site.bodies() == ["Comment a\n\nComment c"]
    for _, fields in site.redis.xrange(STREAM):
        site.redis.xadd(STREAM, fields)
    services.notify(alice, "Comment d", kind="commented")
    wait_for(SENT, READ, SENT, PENDING)
    wait_until_sync(site.is_all_handled, seconds=SECONDS)
    assert len(site.mails.messages) == 1


def test_a_newer_one_replaces_the_unread_older(site: Site, alice: User) -> None:
    """The mailbox and the inbox have the newest one, whether or not the bot had seen the older ones."""
    build = {"kind": "mentioned", "collapse_key": "build-7"}
    services.notify(alice, "Build 1", **build)
    wait_for(PENDING)
    with transaction.atomic():
        services.notify(alice, "Build 2", **build)
        services.notify(alice, "Build 3", **build)
    wait_for(REPLACED, REPLACED, PENDING)
    pass_time(minutes=15)
    wait_for(REPLACED, REPLACED, SENT)
    assert site.bodies() == ["Build 3"]
    bell = read_bell(alice.pk)
    assert (bell.unread, [each.event.message for each in bell.notifications]) == (1, ["Build 3"])
    first, second, third = Notification.objects.order_by("id")
    assert (first.replaces, second.replaces, third.replaces) == (None, first.pk, second.pk)


def test_what_waits_is_told_when_its_time_has_come(site: Site, alice: User) -> None:
    """By the real clock, to browsers and by mail; a cancelled one never."""
    # Later than the calls below are done.
    soon = datetime.timedelta(seconds=4)
    services.cancel(services.notify(alice, "Never", deliver_after=soon))
    event = services.notify(alice, "Now", deliver_after=soon)
    due_at = event.deliver_at
    assert due_at is not None
    assert not Notification.objects.exists()
    wait_for(SENT)
    notification = Notification.objects.select_related("event").get()
    assert notification.event.message == "Now"
    # The database's clock may be a millisecond ahead, see notifications.database.clock.
    assert -datetime.timedelta(milliseconds=1) <= notification.created_at - due_at < datetime.timedelta(seconds=SECONDS)
    wait_until_sync(lambda: Notification.objects.exclude(relayed_at=None).exists(), seconds=SECONDS)
    assert site.bodies() == ["Now"]
    assert Event.objects.filter(published_at=None).count() == 0
