"""The ledger of a notification: each step in order, with its process, attempt and answer."""

import datetime
import json
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from notifications import services
from notifications.admin.ledger import ledger_rows
from notifications.admin.states import badge
from notifications.delivery import changes, history, records
from notifications.delivery.history import HISTORY_LIMIT
from notifications.delivery.records import Claim, Result
from notifications.events import outbox, schedule
from notifications.models import Delivery, Digest, Event, Notification
from notifications.statistics.ledger import LedgerStep, describe, read_ledger
from notifications.workers.relay import Relay
from realtime import conf
from realtime.process_name import process_name
from realtime.redis.keys import Keys
from realtime.streams import Entry
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page
from tests.support.timing import begun, declare, own_registry, pass_time, streamed

__all__ = ["own_registry"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "email", "own_registry")]
State = Delivery.State
CREATED = ["created", "published", "deliveries planned", "planned"]


@pytest.fixture
def email(signalbox: Any) -> None:
    backend = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": {"email": backend},
        "DEFAULT_TRANSPORTS": ["email"],
        "BASE_URL": "https://x.example",
    }


@pytest.fixture
def notification(alice: User) -> Notification:
    return services.notify(alice, "Hello").notifications.get()


@pytest.fixture
def attempt(redis_client: redis.Redis, keys: Keys) -> Any:
    """Make the attempts that are due, with this result; returns their claims."""

    def make(state: State, answer: str = "", *, number: int = 0, **fields: Any) -> tuple[Claim, ...]:
        claims = begun(streamed(redis_client, keys)[number])
        for claim in claims:
            result = Result(state=state, answer=answer, outcomes={}, latency_seconds=0.5, **fields)
            assert records.record(claim, result)
        return claims

    return make


def steps_of(notification: Notification) -> list[LedgerStep]:
    return read_ledger(Notification.objects.get(pk=notification.pk), with_deliveries=True)


def names_of(notification: Notification) -> list[str]:
    return [step.what for step in steps_of(notification)]


def attempts_of(notification: Notification) -> list[tuple[str, int | None, str]]:
    """What became of each attempt, its number, and its answer."""
    return [(step.what, step.attempt, step.answer) for step in steps_of(notification) if step.attempt is not None]


def test_a_delivery_that_succeeds_at_once_has_no_history(notification: Notification, attempt: Any) -> None:
    """Its row has the time, the process and the answer. So nothing is written that was not written before."""
    attempt(State.SENT, "250 ok")
    services.mark_relayed([notification.pk])
    services.mark_seen(notification.recipient_id)
    services.mark_read(notification.recipient_id, [notification.pk])
    services.mark_archived(notification.recipient_id, [notification.pk])
    assert Delivery.objects.get().history is None
    steps = steps_of(notification)
    assert [step.what for step in steps] == [*CREATED, "sent", "relayed", "seen", "read", "archived"]
    by_name = {step.what: step for step in steps}
    sent = by_name["sent"]
    assert (sent.transport, sent.attempt, sent.seconds, sent.answer) == ("email", 1, 0.5, "250 ok")
    assert sent.began_at is not None
    assert sent.began_at <= sent.at
    assert by_name["deliveries planned"].answer == "email"
    done = {step.what: step.process for step in steps if step.what not in ("seen", "read", "archived")}
    assert set(done.values()) == {process_name()}
    assert [step.at for step in steps] == sorted(step.at for step in steps)


def test_each_of_several_attempts_is_shown(notification: Notification, attempt: Any) -> None:
    """With its answer, and when the next one is due. An interrupted attempt keeps its number for the next."""
    for answer in ("503 one", "503 two", "503 three"):
        attempt(State.PENDING, answer, retry_seconds=30)
        assert names_of(notification)[-1] == "due"
        pass_time(seconds=31)
    attempt(State.PENDING, "the bot is stopping", is_counted=False)
    attempt(State.SENT, "250 ok")
    assert attempts_of(notification) == [
        ("retried", 1, "503 one"),
        ("retried", 2, "503 two"),
        ("retried", 3, "503 three"),
        ("not counted", 4, "the bot is stopping"),
        ("sent", 4, "250 ok"),
    ]
    retried = next(step for step in steps_of(notification) if step.what == "retried")
    assert (retried.process, retried.seconds) == (process_name(), 0.5)
    assert retried.until is not None
    assert retried.began_at is not None
    assert (retried.until - retried.at, retried.at - retried.began_at) == (
        datetime.timedelta(seconds=30),
        datetime.timedelta(seconds=0.5),
    )


def test_a_delivery_that_is_never_due_has_no_next_attempt(notification: Notification, attempt: Any) -> None:
    """Nothing handles it: it has no time. A time at which nothing is due is not shown."""
    attempt(State.PENDING, "503 one", retry_seconds=30)
    Delivery.objects.update(due_at=None)
    (step,) = [step for step in steps_of(notification) if step.what == "never due"]
    assert names_of(notification)[-1] == "never due"
    assert "due" not in names_of(notification)
    assert describe(step) == "no attempt is planned"
    (row,) = ledger_rows([step])
    assert row.badge == badge("failed", "no attempt is planned")


def test_a_failed_delivery_that_is_sent_again_keeps_its_history(notification: Notification, attempt: Any) -> None:
    """Its attempts start at 1 again."""
    attempt(State.PENDING, "421 later")
    attempt(State.FAILED, "550 no such user")
    assert attempts_of(notification)[-1] == ("failed", 2, "550 no such user")
    assert changes.reopen(Delivery.objects.all()) == 1
    assert names_of(notification)[-2:] == ["sent again", "due"]
    attempt(State.SENT, "250 ok")
    assert [step.what for step in steps_of(notification)[len(CREATED) :]] == ["retried", "failed", "sent again", "sent"]
    assert attempts_of(notification)[-1] == ("sent", 1, "250 ok")


def test_an_attempt_without_a_result_is_shown_once(
    notification: Notification, attempt: Any, redis_client: redis.Redis, keys: Keys
) -> None:
    """While the claim holds, the delivery is being sent. When it has lapsed, the next one to claim it says so."""
    (lost,) = begun(streamed(redis_client, keys)[0])
    (sending,) = [step for step in steps_of(notification) if step.what == "sending"]
    assert (sending.attempt, sending.process) == (1, process_name())
    assert sending.until is not None
    assert 0 < (sending.until - timezone.now()).total_seconds() <= 61
    Delivery.objects.update(attempt_by="bot-1:23")
    pass_time(seconds=120)
    attempt(State.SENT, "250 ok")
    assert attempts_of(notification) == [("lost", 1, ""), ("sent", 2, "250 ok")]
    (step,) = [step for step in steps_of(notification) if step.what == "lost"]
    assert step.process == "bot-1:23"
    assert not records.record(lost, Result(state=State.SENT, answer="late", outcomes={}))


@pytest.mark.parametrize("state", [State.SENT, State.PENDING])
def test_an_attempt_that_ends_late_has_its_result_alone(
    notification: Notification, attempt: Any, redis_client: redis.Redis, keys: Keys, state: State
) -> None:
    """It counted as lost, but nobody had claimed the delivery yet, because no slot was free."""
    (claim,) = begun(streamed(redis_client, keys)[0])
    pass_time(seconds=120)
    for _ in range(2):
        changes.note_lapsed(Delivery.objects.all())
    assert attempts_of(notification)[0] == ("lost", 1, "")
    assert records.record(claim, Result(state=state, answer="at last", outcomes={}))
    expected = "sent" if state == State.SENT else "retried"
    assert attempts_of(notification) == [(expected, 1, "at last")]


def test_of_a_long_history_the_beginning_and_the_end_are_kept(notification: Notification, attempt: Any) -> None:
    """The ledger says how many steps are missing in between."""
    for number in range(40):
        attempt(State.PENDING, f"503 number {number + 1}")
    stored = history.history_of(Delivery.objects.get().history)
    assert len(stored) == HISTORY_LIMIT
    assert [step.number for step in stored] == [1, 2, 3, *range(21, 41)]
    assert [step.attempt for step in stored] == [1, 2, 3, *range(21, 41)]
    (gap,) = [step for step in steps_of(notification) if step.what == "left out"]
    assert gap.answer == "17 steps are left out"
    assert names_of(notification)[: len(CREATED) + 4] == [*CREATED, *["retried"] * 3, "left out"]


def test_one_missing_step_is_one_step(notification: Notification, attempt: Any) -> None:
    """Not "1 steps"."""
    for number in range(HISTORY_LIMIT + 1):
        attempt(State.PENDING, f"503 number {number + 1}")
    (gap,) = [step for step in steps_of(notification) if step.what == "left out"]
    assert gap.answer == "1 step is left out"


def test_a_replaced_notification_names_the_newer_one(alice: User, attempt: Any) -> None:
    """Its pending delivery is skipped by the process of the newer one."""
    old = services.notify(alice, "1", kind="build", collapse_key="b").notifications.get()
    attempt(State.PENDING, "503", retry_seconds=60)
    new = services.notify(alice, "2", kind="build", collapse_key="b").notifications.get()
    steps = {step.what: step for step in steps_of(old)}
    assert (steps["replaced"].answer, steps["replaced"].process) == (f"by notification {new.pk}", process_name())
    assert (steps["skipped"].answer, steps["skipped"].process) == ("replaced by a newer notification", process_name())
    assert "archived" not in steps
    assert names_of(old).count("skipped") == 1
    assert steps_of(new)[0].answer == f"replaces notification {old.pk}"
    new.delete()
    assert {step.what: step for step in steps_of(old)}["replaced"].answer == "by a newer notification"


def test_a_fallback_that_is_not_needed_is_skipped(alice: User, attempt: Any) -> None:
    """Because the notification was read."""
    declare(fallback={"email": datetime.timedelta(minutes=5)})
    notification = services.notify(alice, "x", kind="build").notifications.get()
    attempt(State.SENT)
    assert names_of(notification)[-1] == "due"
    services.mark_read(alice.pk)
    pass_time(minutes=6)
    attempt(State.SENT)
    planned, skipped = (
        next(step for step in steps_of(notification) if step.what == what) for what in ("planned", "skipped")
    )
    assert planned.answer == "only if it is unread by then"
    assert (skipped.answer, skipped.attempt) == ("read before it was due", None)


def test_a_held_delivery_is_released(notification: Notification, attempt: Any, signalbox: Any) -> None:
    """Both have their times and processes."""
    settings = signalbox.NOTIFICATIONS
    signalbox.NOTIFICATIONS = {**settings, "DELIVERY": "hold"}
    assert attempt(State.SENT) == ()
    assert [step.what for step in steps_of(notification)] == [*CREATED, "held"]
    signalbox.NOTIFICATIONS = settings
    assert changes.release(Delivery.objects.all()) == 1
    attempt(State.SENT, "250 ok")
    steps = steps_of(notification)[len(CREATED) :]
    assert [step.what for step in steps] == ["held", "released", "sent"]
    assert {step.process for step in steps} == {process_name()}


def test_quiet_hours_postpone_a_delivery(notification: Notification, alice: User, attempt: Any) -> None:
    """Until they end."""
    now = timezone.now()
    starts, ends = (now + datetime.timedelta(hours=hours) for hours in (-1, 2))
    services.set_quiet_hours(alice.pk, starts.time(), ends.time(), "UTC")
    assert attempt(State.SENT) == ()
    (step,) = [step for step in steps_of(notification) if step.what == "postponed"]
    assert step.answer == "the recipient has quiet hours"
    assert step.until is not None
    assert abs(step.until - ends) < datetime.timedelta(minutes=1)


def test_the_deliveries_of_a_digest_have_the_same_attempts(
    alice: User, attempt: Any, redis_client: redis.Redis, keys: Keys
) -> None:
    """One message, one claim: what is lost or retried is so for all of them."""
    declare(digest={"email": "hourly"})
    told = [services.notify(alice, text, kind="build").notifications.get() for text in "ab"]
    for planned_one in streamed(redis_client, keys):
        assert begun(planned_one) == ()
    Delivery.objects.update(digest=Digest.objects.order_by("pk").first())
    pass_time(hours=1)
    (claim,) = begun(streamed(redis_client, keys)[0])
    assert len(claim.notification_ids) == 2
    pass_time(seconds=120)
    attempt(State.PENDING, "503")
    attempt(State.SENT, "250 ok", number=1)
    for notification in told:
        assert attempts_of(notification) == [("lost", 1, ""), ("retried", 2, "503"), ("sent", 3, "250 ok")]
        (planned,) = [step for step in steps_of(notification) if step.what == "planned"]
        assert planned.answer.startswith("in digest ")


def test_a_scheduled_event_keeps_the_time_of_its_call(alice: User) -> None:
    """And the process, after another one has released it."""
    event = services.notify(alice, "Later", kind="build", deliver_after=datetime.timedelta(hours=1))
    Event.objects.update(scheduled_by="web-1:17")
    pass_time(hours=2)
    assert schedule.release() == 1
    scheduled, created, published = steps_of(event.notifications.get())
    assert [step.what for step in (scheduled, created, published)] == ["scheduled", "created", "published"]
    assert (scheduled.process, created.process, published.process) == ("web-1:17", process_name(), process_name())
    assert scheduled.at < created.at


def test_what_the_sweep_publishes_says_so(alice: User, signalbox: Any) -> None:
    """Redis was unavailable to the caller."""
    signalbox.NOTIFICATIONS = {**signalbox.NOTIFICATIONS, "OUTBOX_GRACE_SECONDS": 0.0}
    with RedisServer(append_only=True) as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        server.kill()
        notification = services.notify(alice, "Hello", kind="build").notifications.get()
        assert names_of(notification) == ["created"]
        server.start()
        assert outbox.sweep() == 1
        conf.sync_redis().close()
    published = steps_of(notification)[-1]
    assert (published.what, published.process) == ("published", process_name())
    assert published.answer == "by the sweep: it was still in the outbox"


async def test_the_relay_is_named(alice: User, redis_client: Any, keys: Keys) -> None:
    """The process that published it to the recipient's browsers."""
    await services.anotify(alice, "Hello")
    ((id, fields),) = redis_client.xrange(keys.stream("notifications"))
    relay = Relay()
    await relay([Entry(id, fields, 1)])
    relay.close()
    notification = await Notification.objects.aget()
    assert notification.relayed_at is not None
    assert notification.relayed_by == process_name()


def test_rows_of_earlier_releases_have_no_process(alice: User) -> None:
    """Nor their first attempts."""
    notification = services.notify(alice, "Hello").notifications.get()
    Event.objects.update(created_by=None, published_by=None, is_swept=None)
    now = timezone.now()
    Notification.objects.update(dispatched_at=now, relayed_at=now)
    row = {"notification": notification, "due_at": None, "finished_at": now}
    Delivery.objects.create(transport="a", state="sent", attempts=3, answer="250 ok", **row)
    Delivery.objects.create(transport="b", state="skipped", answer="read before it was due", **row)
    Delivery.objects.create(transport="c", state="held", **{**row, "finished_at": None})
    steps = steps_of(notification)
    assert {step.process for step in steps} == {""}
    assert [step.answer for step in steps if step.transport == "a"] == [
        "",
        "attempts before number 3 were not recorded",
        "250 ok",
    ]
    for transport, state in (("b", "skipped"), ("c", "held")):
        assert [step.what for step in steps if step.transport == transport] == ["planned", state]


# The page, and its other forms ----------------------------------------------------------------------------------------


HOSTILE = '=HYPERLINK("https://evil.example/hunter2") <b>x</b>\x1b[31m token=hunter2 \u202e'


@pytest.fixture
def url(notification: Notification, attempt: Any) -> str:
    """The page of a notification with hostile answers."""
    attempt(State.PENDING, HOSTILE)
    attempt(State.FAILED, HOSTILE)
    return f"/admin/notifications/notification/{notification.pk}/change/"


def test_hostile_answers_do_no_harm(admin_client: Client, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No HTML on the page, no formula in a spreadsheet, no escape in a terminal, no secret anywhere."""
    html = page(admin_client, url)
    table = html.partition('id="ledger"')[2]
    assert "<b>x" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in table
    for text in ("attempt failed", "failed", process_name()):
        assert text in table
    lines = page(admin_client, f"{url}?format=csv").splitlines()
    assert lines[0] == "time,step,transport,attempt,process,began,seconds,until,answer"
    assert sum("\"'=HYPERLINK(" in line for line in lines) == 2
    found = json.loads(page(admin_client, f"{url}?format=json"))
    assert [step["what"] for step in found["steps"]] == [*CREATED, "retried", "failed"]
    call_command("notification_ledger", str(found["notification_id"]))
    printed = capsys.readouterr().out
    for form in (html, "\n".join(lines), json.dumps(found), printed):
        assert "evil.example" in form
        for bad in ("hunter2", "\x1b", "\u202e"):
            assert bad not in form


def test_answers_are_for_those_who_may_see_deliveries(url: str) -> None:
    """Others see the steps of the notification itself. Who may not see notifications sees nothing."""
    own = ["created", "published", "deliveries planned"]
    seen = make_staff("view_notification")
    assert "HYPERLINK" not in page(seen, url) + page(seen, f"{url}?format=csv")
    assert [step["what"] for step in json.loads(page(seen, f"{url}?format=json"))["steps"]] == own
    assert "email" not in page(seen, f"{url}?format=csv")
    assert "HYPERLINK" in page(make_staff("view_notification", "view_delivery"), f"{url}?format=csv")
    for form in ("", "?format=csv", "?format=json"):
        assert make_staff("view_delivery").get(url + form).status_code == 403
        assert Client().get(url + form).status_code == 302
    assert seen.get("/admin/notifications/notification/999999/change/?format=json").status_code == 302


def test_the_command_prints_the_ledger(
    url: str, notification: Notification, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table, or with --json as the admin gives it."""
    call_command("notification_ledger", str(notification.pk))
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "time (UTC)"
    assert len(lines) == len(steps_of(notification))
    call_command("notification_ledger", str(notification.pk), "--json")
    assert len(json.loads(capsys.readouterr().out)["steps"]) == len(lines)
    with pytest.raises(CommandError, match="there is no notification 999999"):
        call_command("notification_ledger", "999999")
    with pytest.raises(CommandError, match="is not the id of a notification"):
        call_command("notification_ledger", "x")


def test_the_page_takes_as_many_queries_for_many_deliveries_as_for_one(
    notification: Notification, django_assert_num_queries: Any
) -> None:
    """The notification with its event, and the deliveries with their digests."""
    for number in range(20):
        Delivery.objects.create(notification=notification, transport=f"t{number}")
    with django_assert_num_queries(3):
        steps_of(notification)
