"""A fallback, a digest and a collapse as a user's mailbox and bell see them: real processes, a real mail server."""

import contextlib
import datetime
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from realtime.keys import Keys
from tests.receivers import MailReceiver, mail_receiver
from tests.redis_server import RedisServer
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.database_independent, pytest.mark.acceptance]

ROOT = Path(__file__).resolve().parent.parent.parent
STREAM = Keys().stream("notifications")
SECONDS = 40.0
# Runs in a process of its own, as a site's code does: what it prints is JSON.
CODE = """
import datetime, json
from django.contrib.auth import get_user_model
from django.db.models import F
from notifications import services
from notifications.inbox import read_bell
from notifications.models import *
user = get_user_model().objects.get(username="user1")
hours = datetime.timedelta(hours=1)
"""


class Site:
    """A database with a user who has an address, a Redis, a mail server, and one process with relay and bot."""

    def __init__(self, directory: Path, redis_url: str, mails: MailReceiver) -> None:
        self.mails = mails
        self.redis = redis.Redis.from_url(redis_url)
        settings = {
            "INGRESS_LEASE_SECONDS": 0.6,
            "SWEEP_INTERVAL_SECONDS": 0.1,
            "DEFAULT_TRANSPORTS": ["email"],
            "TRANSPORTS": {"email": {"BACKEND": "notifications.transports.email.EmailTransport"}},
        }
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
            "DJANGO_SETTINGS_MODULE": "tests.timed_settings",
            "VAR_DIR": str(directory),
            "REDIS_URL": redis_url,
            "NOTIFICATIONS": json.dumps(settings),
            "MAILERS": json.dumps(mails.mailers),
        }

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def do(self, code: str) -> Any:
        """Run code of a site; its `result` comes back."""
        text = f"{CODE}\nresult = None\n{code}\nprint(json.dumps(result, default=str))"
        return json.loads(self.manage("shell", "--no-imports", "--command", text).splitlines()[-1])

    def states(self) -> list[str]:
        """The state of each delivery and its answer."""
        states: list[str] = self.do(
            "result = [f'{each.state}: {each.answer}' for each in Delivery.objects.order_by('id')]"
        )
        return states

    def bodies(self) -> list[str]:
        """What each mail says."""
        texts = []
        for mail in self.mails.messages:
            body = mail.get_body(("plain",))
            assert body is not None
            texts.append(body.get_content().strip())
        return texts

    def is_all_handled(self) -> bool:
        """Whether the bot has handled every entry."""
        groups = [group for group in self.redis.xinfo_groups(STREAM) if group["name"] == b"bot"]
        newest = self.redis.xinfo_stream(STREAM)["last-generated-id"]
        return bool(groups) and groups[0]["pending"] == 0 and groups[0]["last-delivered-id"] == newest

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        command = [sys.executable, "manage.py", "run_bot_subscriber"]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stderr=subprocess.PIPE)
        # A pipe that nobody reads would hold up the process.
        reader = threading.Thread(target=_drain, args=(process.stderr,))
        reader.start()
        try:
            yield
        finally:
            process.terminate()
            process.wait(SECONDS)
            reader.join()


def _drain(stream: Any) -> None:
    with stream:
        stream.read()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    with RedisServer() as server, mail_receiver() as mails:
        site = Site(directory, server.url, mails)
        site.manage("migrate", "--verbosity=0")
        site.manage("seed_demo", "--users=1", f"--cookies={directory / 'cookies'}")
        site.do("user.email = 'user1@example.com'; user.save()")
        with site.running():
            yield site
        site.redis.close()


@pytest.fixture(autouse=True)
def _clean(site: Site) -> None:
    site.do("Event.objects.all().delete(); Digest.objects.all().delete()")
    site.mails.messages.clear()


def test_a_fallback_mails_what_is_unread_and_nothing_else(site: Site) -> None:
    """Of two mentions one is read in time: one mail, and not before its time."""
    told = site.do(
        "services.notify(user, 'Read in time', kind='mentioned');"
        "services.notify(user, 'Left unread', kind='mentioned');"
        "services.mark_read(user.pk, [Notification.objects.earliest('id').pk]);"
        "result = Event.objects.latest('id').created_at.isoformat()"
    )
    ends = ["skipped: read before it was due", "sent: taken by the mail server"]
    wait_until_sync(lambda: site.states() == ends, seconds=SECONDS)
    assert site.bodies() == ["Left unread"]
    sent = site.do("result = Delivery.objects.get(state='sent').finished_at.isoformat()")
    waited = datetime.datetime.fromisoformat(sent) - datetime.datetime.fromisoformat(told)
    assert waited > datetime.timedelta(seconds=3)


def test_a_digest_mails_once_what_is_unread(site: Site) -> None:
    """Three comments, one of them read; the hour passes in the rows. Then the next hour has one of its own."""
    site.do("for text in 'abc': services.notify(user, f'Comment {text}', kind='commented')")
    wait_until_sync(lambda: len(site.states()) == 3, seconds=SECONDS)
    assert site.mails.messages == []
    site.do(
        "Delivery.objects.update(digest=Digest.objects.earliest('id'));"
        "services.mark_read(user.pk, [Notification.objects.order_by('id')[1].pk]);"
        "Digest.objects.update(ends_at=F('ends_at') - 2 * hours);"
        "Delivery.objects.update(due_at=F('due_at') - 2 * hours)"
    )
    sent, skipped = "sent: taken by the mail server", "skipped: read before it was due"
    wait_until_sync(lambda: site.states() == [sent, skipped, sent], seconds=SECONDS)
    assert [mail["Subject"] for mail in site.mails.messages] == ["Comments: 2 notifications"]
    assert site.bodies() == ["Comment a\n\nComment c"]
    # Handed out again, all of them: nothing is sent a second time.
    site.do(
        "from notifications import refill;"
        "entries = refill._entries(Notification.objects.values_list('id', flat=True), group='bot');"
        "result = refill._append(entries, guard='once more', guard_seconds=60)"
    )
    wait_until_sync(site.is_all_handled, seconds=SECONDS)
    assert len(site.mails.messages) == 1


def test_a_newer_one_replaces_the_unread_older(site: Site) -> None:
    """The mailbox and the inbox have the newest; open pages are told which one left."""
    site.do("for text in '123': services.notify(user, f'Build {text}', kind='mentioned', collapse_key='build-7')")
    replaced = "skipped: replaced by a newer notification"
    wait_until_sync(lambda: site.states() == [replaced, replaced, "sent: taken by the mail server"], seconds=SECONDS)
    assert site.bodies() == ["Build 3"]
    bell = site.do("bell = read_bell(user.pk); result = [bell.unread, [str(n.event) for n in bell.notifications]]")
    assert bell == [1, ["Build 3"]]
    pairs = site.do("result = list(Notification.objects.order_by('id').values_list('id', 'replaces'))")
    assert [replaced for _, replaced in pairs] == [None, pairs[0][0], pairs[1][0]]


def test_what_waits_is_told_on_time_by_the_running_process(site: Site) -> None:
    """Within two seconds of its time; a cancelled one never."""
    site.do(
        "soon = datetime.timedelta(seconds=3);"
        "services.cancel(services.notify(user, 'Never', kind='mentioned', deliver_after=soon));"
        "services.notify(user, 'Now', kind='mentioned', deliver_after=soon);"
        "result = None"
    )
    due = datetime.datetime.fromisoformat(site.do("result = Event.objects.latest('id').deliver_at.isoformat()"))
    assert site.do("result = Notification.objects.count()") == 0
    wait_until_sync(lambda: site.do("result = Notification.objects.count()") == 1, seconds=SECONDS)
    event = site.do("n = Notification.objects.get(); result = [n.event.message, n.created_at.isoformat()]")
    late = datetime.datetime.fromisoformat(event[1]) - due
    assert event[0] == "Now"
    assert datetime.timedelta(0) <= late < datetime.timedelta(seconds=2)
