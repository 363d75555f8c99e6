"""The page "Delivery statistics", as people and as programs read it."""

import datetime
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from notifications.admin import chart
from notifications.models import Delivery, Event, Notification
from notifications.statistics import Hour
from realtime import conf
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page

STATISTICS = "/admin/notifications/event/statistics/"
START = datetime.datetime(2026, 3, 29, tzinfo=datetime.UTC)


def figures(html: str, section: str = "totals") -> dict[str, str]:
    """The totals of a section as the page shows them."""
    shown = re.search(rf'<section aria-labelledby="{section}">.*?</section>', html, re.DOTALL)
    assert shown is not None
    return dict(re.findall(r"<dt>([\w ]+)</dt>\s*<dd><strong>([^<]+)</strong>", shown[0]))


def charts(html: str) -> list[ElementTree.Element]:
    """The drawings of the page: of notifications, and of deliveries."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r'<svg class="sb-chart".*?</svg>', html, re.DOTALL)]  # noqa: S314


def hours(*created: int) -> list[Hour]:
    """Hours with these numbers of created notifications, none of which was relayed."""
    return [Hour(start=START + datetime.timedelta(hours=number), created=count) for number, count in enumerate(created)]


@pytest.fixture
def _told() -> None:
    now = timezone.now()
    event = Event.objects.create(message="m", published_at=now)
    for number, user in enumerate(make_users(3)):
        Notification.objects.create(
            event=event,
            recipient=user,
            relayed_at=now,
            seen_at=now if number else None,
            read_at=now if number > 1 else None,
        )


@pytest.mark.django_db
@pytest.mark.usefixtures("_told")
def test_the_page_shows_each_figure_and_a_chart_with_its_table(signalbox: Any, admin_client: Client) -> None:
    """Totals, a chart with a description, and the same figures by hour."""
    html = page(admin_client, STATISTICS)
    totals = {"created": "3", "published": "3", "relayed": "3", "seen": "2", "read": "1", "dead letters": "0"}
    assert figures(html) == totals
    drawing = charts(html)[0]
    assert "by hour (UTC)" in drawing.findtext("title", "")
    assert "3 notifications were created" in drawing.findtext("desc", "")
    columns = drawing.findall("g")
    assert len(columns) == 24
    assert "3 created, 3 relayed, 2 seen, 1 read" in columns[-1].findtext("title", "")
    table = re.search(r"<details.*?</details>", html, re.DOTALL)
    assert table is not None
    latest = re.search(r"<tr>\s*<th scope=\"row\">.*?</tr>", table[0], re.DOTALL)
    assert latest is not None
    assert re.findall(r"<td>(\d+)</td>", latest[0]) == ["3", "3", "2", "1"]
    assert "Redis is unavailable" not in html


@pytest.mark.django_db
def test_each_group_is_shown_as_by_stream_status(signalbox: Any, admin_client: Client) -> None:
    """Lag, pending, delayed, stuck keys, dead letters, the oldest unfinished entry, consumers, and those alive."""
    client, keys = conf.sync_redis(), conf.keys()
    client.xgroup_create(keys.stream("notifications"), "bot", id="0", mkstream=True)
    client.xgroup_createconsumer(keys.stream("notifications"), "bot", "gone")
    client.hset(keys.parked_entries("notifications", "bot"), "60000-0", "as a worker writes it")
    client.hset(keys.key_owners("notifications", "bot"), "user", "+")
    client.xadd(keys.dead_letters("notifications", "bot"), {"n": 1})
    rows = re.search(r'aria-labelledby="groups".*?</section>', page(admin_client, STATISTICS), re.DOTALL)
    assert rows is not None
    bot = re.search(r'<th scope="row">bot</th>.*?</tr>', rows[0], re.DOTALL)
    assert bot is not None
    *counts, oldest, consumers, alive = re.findall(r"<td>([^<]*)</td>", bot[0])
    assert counts == ["0", "0", "1", "1", "1"]
    assert oldest.endswith(" d")
    assert (consumers, alive) == ("1", "0")


@pytest.mark.django_db
def test_hours_are_those_of_utc_wherever_the_site_is(signalbox: Any, admin_client: Client) -> None:
    """Chart and table name the same hours."""
    signalbox.TIME_ZONE = "Asia/Kathmandu"
    html = page(admin_client, STATISTICS)
    rows = re.findall(r"<th scope=\"row\">(\d{4}-\d\d-\d\d \d\d:\d\d)</th>", html)
    columns = [[group.findtext("title", "")[:5] for group in drawing.findall("g")] for drawing in charts(html)]
    assert len(rows) == 48
    assert columns == [[row[-5:] for row in reversed(rows[:24])]] * 2
    assert rows[:24] == rows[24:]
    assert {row[-2:] for row in rows} == {"00"}


@pytest.mark.django_db
@pytest.mark.usefixtures("_told")
def test_programs_read_the_same_as_json(signalbox: Any, admin_client: Client) -> None:
    """Every figure by its name."""
    response = admin_client.get(f"{STATISTICS}?format=json")
    assert response.headers["Content-Type"] == "application/json"
    found = response.json()
    assert found["totals"] == {
        "events": 1,
        "waiting": 0,
        "scheduled": 0,
        "created": 3,
        "published": 3,
        "relayed": 3,
        "seen": 2,
        "read": 1,
    }
    assert found["failed"] == 0
    assert len(found["hours"]) == 24
    assert found["hours"][-1]["created"] == 3
    groups = found["redis"]["groups"]
    assert {group["name"] for group in groups} == {"relay", "bot"}
    # The first five are those that programs have always read.
    names = {"name", "lag", "pending", "consumers", "dead_letters", "delayed", "standing", "workers", "oldest_seconds"}
    assert [set(group) for group in groups] == [names | {"finished", "members"}] * 2
    assert [group["dead_letters"] for group in groups] == [0, 0]


@pytest.mark.django_db
@pytest.mark.usefixtures("_told")
def test_deliveries_are_counted_by_transport_and_state(signalbox: Any, admin_client: Client) -> None:
    """On the page and as JSON. "Pending" includes sending."""
    states = {"email": ("sent", "failed", "skipped"), "console": ("pending", "sending", "sent")}
    for transport, each in states.items():
        for notification, state in zip(Notification.objects.order_by("pk"), each, strict=True):
            Delivery.objects.create(notification=notification, transport=transport, state=state)
    html = page(admin_client, STATISTICS)
    assert figures(html, "deliveries") == {"sent": "2", "failed": "1", "skipped": "1", "pending": "2"}
    drawing = charts(html)[1]
    assert "2 sent, 1 failed, 1 skipped, 2 pending" in drawing.findall("g")[-1].findtext("title", "")
    assert "6 deliveries were created in these hours" in drawing.findtext("desc", "")
    heights = {
        part.get("class", "").split()[-1]: float(part.get("height", 0))
        for part in drawing.findall("g")[-1].findall("rect")[1:]
    }
    assert heights["sb-state-sent"] == pytest.approx(2 * heights["sb-state-failed"], abs=0.02)
    table = re.search(r'<table class="sb-table sb-deliveries">.*?</table>', html, re.DOTALL)
    assert table is not None
    cells = re.findall(r"<th scope=\"row\">(\w+)</th>|<td>(\d+)</td>", table[0])
    assert [name or count for name, count in cells] == ["console", "1", "0", "0", "2", "email", "1", "1", "1", "0"]
    found = admin_client.get(f"{STATISTICS}?format=json").json()
    assert found["deliveries"][0] == {"transport": "console", "sent": 1, "failed": 0, "skipped": 0, "pending": 2}
    assert [each["transport"] for each in found["deliveries"]] == ["console", "email"]
    assert found["delivery_hours"][-1].items() >= {"sent": 2, "failed": 1, "skipped": 1, "pending": 2}.items()


@pytest.mark.django_db
@pytest.mark.usefixtures("_told")
def test_with_redis_away_the_page_says_so_and_shows_the_rest(signalbox: Any, admin_client: Client) -> None:
    """The number of dead letters is unknown, the figures of the database are there."""
    with RedisServer() as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        server.kill()
        html = page(admin_client, STATISTICS)
        found = admin_client.get(f"{STATISTICS}?format=json").json()
        conf.sync_redis().close()
    assert "Redis is unavailable." in html
    assert figures(html)["dead letters"] == "unknown"
    assert figures(html)["created"] == "3"
    assert (found["failed"], found["redis"]) == (None, None)


@pytest.mark.django_db
def test_statistics_are_for_those_who_may_view_events(signalbox: Any) -> None:
    """Of the staff; visitors are sent to the login."""
    assert make_staff("view_event").get(STATISTICS).status_code == 200
    assert make_staff("view_notification").get(STATISTICS).status_code == 403
    assert Client().get(STATISTICS).status_code == 302


def test_the_parts_of_a_column_add_up_to_what_was_created() -> None:
    """Each notification is in the part of the furthest that it has come; seen before relayed is no error."""
    hour = Hour(start=START, created=100, relayed=70, seen=80, read=30)
    drawn = chart.draw([hour])
    (column,) = drawn.columns
    heights = {segment.state: segment.height for segment in column.segments}
    assert set(heights) == {"read", "seen", "waiting"}
    assert sum(heights.values()) == pytest.approx(drawn.bottom - drawn.ticks[-1].y)
    assert heights["read"] / heights["waiting"] == pytest.approx(30 / 20)


@pytest.mark.parametrize(
    ("most", "labels"),
    [
        (0, ["0", "1"]),
        (1, ["0", "1"]),
        (4, ["0", "1", "2", "3", "4"]),
        (7, ["0", "2", "4", "6", "8"]),
        (100, ["0", "50", "100"]),
        (192, ["0", "50", "100", "150", "200"]),
        (1_234_567, ["0", "500,000", "1,000,000", "1,500,000"]),
    ],
)
def test_the_lines_of_the_chart_are_round_numbers_above_the_highest_column(most: int, labels: list[str]) -> None:
    """And no column is higher than the chart."""
    drawn = chart.draw(hours(0, most, 0))
    assert [tick.label for tick in drawn.ticks] == labels
    assert all(segment.y >= drawn.ticks[-1].y for column in drawn.columns for segment in column.segments)


def test_a_day_without_notifications_is_described() -> None:
    """An empty chart has a description too."""
    assert chart.draw(hours(0, 0)).description == "No notifications were created in these hours."
