"""Digests: one message a window with what is still unread, and never a second one."""

import concurrent.futures
import datetime
import itertools
import zoneinfo
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connections
from django.utils import timezone

from notifications import services
from notifications.content.stored import envelopes_of
from notifications.content.stream_entry import StreamedNotification
from notifications.delivery.bot import Bot
from notifications.delivery.records import Claim
from notifications.kinds import find_kind, render_digest
from notifications.models import Delivery, Digest, Notification
from notifications.transports import Address, Message, Transport
from notifications.workers.recovery import refill
from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.streams import working
from tests.support.timing import begun, declare, ends, own_registry, pass_time, streamed
from tests.support.waiting import wait_until

__all__ = ["own_registry"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "own_registry", "email")]


class Recording(Transport):
    """A transport that records its messages, and fails a given number of times."""

    def __init__(self) -> None:
        super().__init__(name="email")
        self.messages: list[Message] = []
        self.failures = 0

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        return [Address(key="home")]

    async def send(self, message: Message, address: Address) -> str:
        self.messages.append(message)
        if len(self.messages) <= self.failures:
            raise OSError("away")
        return "taken"


@pytest.fixture
def email(signalbox: Any) -> None:
    backend = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": {"email": backend},
        "DELIVERY_RETRY_SECONDS": 0.001,
        "BASE_URL": "https://x.example",
    }
    declare(digest={"email": "hourly"})


def tell(alice: User, *texts: str) -> None:
    for text in texts:
        services.notify(alice, text, kind="build")


def planned(client: redis.Redis, keys: Keys) -> None:
    """Handle the entries on the stream, as the bot does."""
    assert [begun(notification) for notification in streamed(client, keys)] == [()] * client.xlen(
        keys.stream("notifications")
    )


def test_the_notifications_of_a_window_are_in_one_digest(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """It is due at the end of the window. Two users have two digests."""
    (bob,) = [User.objects.create_user("bob")]
    tell(alice, "1", "2")
    tell(bob, "3")
    planned(redis_client, keys)
    # The full hour may have come in between.
    digests = {delivery.digest_id for delivery in Delivery.objects.filter(notification__recipient=alice)}
    assert len(digests) <= 2
    assert Delivery.objects.exclude(digest__recipient_id=alice.pk).get().notification.recipient_id == bob.pk
    assert all(
        each.due_at == each.digest.ends_at > timezone.now() for each in Delivery.objects.select_related("digest")
    )
    assert refill() == 0


def test_one_claim_has_all_unread_notifications_of_a_digest(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Read, archived and replaced ones are skipped, with the reason. The sweep finds the digest once."""
    tell(alice, "1", "2", "3", "4")
    planned(redis_client, keys)
    Delivery.objects.update(digest=Digest.objects.earliest("id"))
    first, second, third, fourth = Notification.objects.order_by("id").values_list("id", flat=True)
    services.mark_read(alice.pk, [second])
    services.mark_archived(alice.pk, [third])
    pass_time(hours=2)
    assert (refill(), refill()) == (1, 0)
    notifications = streamed(redis_client, keys)
    (claim,) = begun(notifications[-1])
    assert claim.notification_ids == (first, fourth)
    assert claim.key == Digest.objects.earliest("id").key.hex
    assert [begun(notification) for notification in notifications] == [()] * 5
    skipped = ("skipped", "read before it was due")
    assert ends() == [("sending", ""), skipped, skipped, ("sending", "")]


def test_a_digest_is_claimed_by_one_bot(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """Several bots get entries of its notifications at the same time. One of them sends all."""
    tell(alice, "1", "2", "3", "4")
    planned(redis_client, keys)
    Delivery.objects.update(digest=Digest.objects.earliest("id"))
    pass_time(hours=2)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(_begun_in_thread, streamed(redis_client, keys)))
    (claim,) = itertools.chain.from_iterable(found)
    assert len(claim.notification_ids) == 4


def _begun_in_thread(notification: StreamedNotification) -> tuple[Claim, ...]:
    try:
        return begun(notification)
    finally:
        connections.close_all()


def test_an_empty_digest_is_not_sent(redis_client: redis.Redis, keys: Keys, alice: User) -> None:
    """All notifications were read."""
    tell(alice, "1", "2")
    planned(redis_client, keys)
    services.mark_read(alice.pk)
    pass_time(hours=2)
    assert [begun(notification) for notification in streamed(redis_client, keys)] == [(), ()]
    assert {state for state, _ in ends()} == {"skipped"}
    assert refill() == 0


def test_notifications_after_the_claim_are_in_the_next_digest(
    redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """Even if the window is still open by this machine's clock: a window has one message."""
    tell(alice, "1")
    planned(redis_client, keys)
    Digest.objects.update(closed_at=timezone.now())
    tell(alice, "2")
    planned(redis_client, keys)
    first, second = Digest.objects.order_by("ends_at")
    assert second.ends_at - first.ends_at == datetime.timedelta(hours=1)
    assert [each.digest_id for each in Delivery.objects.order_by("id")] == [first.pk, second.pk]


def test_a_daily_digest_ends_at_the_hour_of_the_user(
    signalbox: Any, redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """In the user's time zone by TIME_ZONE_OF."""
    zone = {"DIGEST_HOUR": 8, "TIME_ZONE_OF": "tests.integration.test_digests.kolkata"}
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, **zone}
    declare(key="comments", digest={"email": "daily"})
    services.notify(alice, "x", kind="comments")
    planned(redis_client, keys)
    ends_at = Digest.objects.get().ends_at
    assert ends_at.astimezone(zoneinfo.ZoneInfo("Asia/Kolkata")).time() == datetime.time(8)
    assert timezone.now() < ends_at <= timezone.now() + datetime.timedelta(days=1)


async def test_a_digest_is_one_message(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """After a failure the whole digest is tried again under the same key. When it is sent, all of its rows are."""
    alice = await User.objects.acreate(username="alice")
    transport = Recording()
    transport.failures = 1
    async with working(redis_server.url, keys, Bot({"email": transport}), group="bot", order_field="u") as worker:
        for text in "123":
            await services.anotify(alice, text, title=f"Build {text}", url="/b", kind="build")
        await wait_until(lambda: worker.statistics().handled_count == 3)
        assert transport.messages == []
        await Delivery.objects.aupdate(digest=await Digest.objects.aearliest("id"))
        await sync_to_async(pass_time)(hours=2)
        assert await sync_to_async(refill)() == 1
        await wait_until(lambda: len(transport.messages) == 1)
        await wait_until(lambda: worker.statistics().handled_count == 4)
        await sync_to_async(pass_time)(minutes=1)
        assert await sync_to_async(refill)() == 1
        await wait_until(lambda: worker.statistics().handled_count == 5)
    first, second = transport.messages
    assert first.key == second.key
    assert (first.attempt, second.attempt) == (1, 2)
    assert [each.message for each in second.digest] == ["1", "2", "3"]
    assert second.notification == second.digest[-1]
    assert second.texts.subject == "Builds: 3 notifications"
    assert second.texts.body == "\n\n".join(f"Build {n}\n{n}\nhttps://x.example/b" for n in (1, 2, 3))
    assert await sync_to_async(ends)() == [("sent", "taken")] * 3
    assert await sync_to_async(refill)() == 0


def test_the_texts_of_a_digest_are_in_the_users_language_and_time(
    signalbox: Any, tmp_path: Path, redis_client: redis.Redis, keys: Keys, alice: User
) -> None:
    """They come from the kind's templates. A template for another transport is not used."""
    folder = tmp_path / "notifications" / "kinds" / "build"
    folder.mkdir(parents=True)
    (folder / "digest_subject.txt").write_text("{{ notifications|length }} for\n{{ recipient.username }}")
    (folder / "email.digest_body.txt").write_text(
        "{% load i18n %}{% get_current_language as code %}{{ code }}"
        "{% for n in notifications %} {{ n.message }} {{ n.created_at|date:'e' }}{% endfor %}"
    )
    (folder / "push.digest_body.html").write_text("no")
    signalbox.TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [tmp_path]}]
    signalbox.NOTIFICATIONS = {
        **signalbox.NOTIFICATIONS,
        "LANGUAGE_OF": "tests.integration.test_digests.german",
        "TIME_ZONE_OF": "tests.integration.test_digests.kolkata",
    }
    tell(alice, "<1>", "2")
    said = envelopes_of(Notification.objects.values_list("id", flat=True))
    texts = render_digest(find_kind("build"), "email", said, alice)
    assert texts.subject == "2 for alice"
    assert texts.body == "de <1> IST 2 IST"
    assert texts.html == ""


def german(user: User) -> str:
    """For LANGUAGE_OF."""
    return "de"


def kolkata(user: User) -> str:
    """For TIME_ZONE_OF."""
    return "Asia/Kolkata"


def test_a_kind_that_makes_no_sense_is_refused() -> None:
    """It is refused when it is declared."""
    with pytest.raises(ValueError, match="weekly"):
        declare(key="other", digest={"email": "weekly"})
    with pytest.raises(ValueError, match="both a fallback and a digest by email"):
        declare(key="other", digest={"email": "daily"}, fallback={"email": datetime.timedelta(1)})
