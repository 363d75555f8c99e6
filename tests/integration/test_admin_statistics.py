"""The dashboard, as people and as programs read it: on the admin's first page and on "Delivery statistics"."""

import csv
import datetime
import html
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, User
from django.template import Context
from django.test import Client, RequestFactory
from django.utils import timezone

from notifications.admin.dashboard import chart
from notifications.admin.dashboard.links import Links
from notifications.admin.dashboard.tables import duration
from notifications.admin.events import EventAdmin
from notifications.models import CounterPeriod, Delivery, Event, Notification
from notifications.statistics.figures import Funnel, Point, TransportFigures
from notifications.statistics.rollup import Rollup
from notifications.templatetags.signalbox_admin import admin_dashboard
from realtime import conf
from realtime.redis.keys import Keys
from tests.support.domain import make_users
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page

STATISTICS = "/admin/notifications/event/statistics/"
START = datetime.datetime(2026, 3, 29, tzinfo=datetime.UTC)
MARK = 'id="sb-dashboard"'
EVERYTHING = ("view_event", "view_notification", "view_delivery", "view_dead_letters", "view_task")


class Page(HTMLParser):
    """Reads the tables and links of the dashboard."""

    def __init__(self, text: str) -> None:
        super().__init__()
        # Section → the texts of each row.
        self.rows: dict[str, list[list[str]]] = {}
        # The text and the URL of each link among the figures.
        self.links: list[tuple[str, str]] = []
        self._section, self._is_cell, self._url = "", False, ""
        self._depth_of_part = 0
        self.feed(text.partition('id="sb-part"')[2].partition('<script type="module"')[0])

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "section":
            self._section = (values["aria-labelledby"] or "").removeprefix("sb-")
            self.rows[self._section] = []
        elif tag in ("tr", "dl"):
            self.rows[self._section].append([])
        elif tag in ("th", "td", "dt", "dd"):
            self._is_cell = True
            self.rows[self._section][-1].append("")
        elif tag == "a":
            self._url = values["href"] or ""
            self.links.append(("", self._url))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td", "dt", "dd"):
            self._is_cell = False
        elif tag == "a":
            self._url = ""

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            row = self.rows[self._section][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())
        if self._url:
            self.links[-1] = (self.links[-1][0] + data, self._url)

    def table(self, section: str) -> dict[str, list[str]]:
        """The rows of a section by their first cell, without the headings."""
        return {first: others for first, *others in self.rows[section]}

    def funnel(self) -> dict[str, str]:
        """The figures at the top."""
        (cells,) = self.rows["funnel"]
        return {name: figure.split()[0] for name, figure in zip(cells[::2], cells[1::2], strict=True)}


def read(client: Client, url: str = STATISTICS) -> Page:
    return Page(page(client, url))


def charts(text: str) -> list[ElementTree.Element]:
    """The drawings of the page: of notifications, and of deliveries."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r'<svg class="sb-chart".*?</svg>', text, re.DOTALL)]  # noqa: S314


def no_links() -> Links:
    """Links of somebody who may see nothing."""
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    return Links(request, "admin", since=START)


def points(*funnels: Funnel) -> list[Point]:
    """Hours with these notifications."""
    return [
        Point(start=START + datetime.timedelta(hours=number), funnel=funnel, transports={})
        for number, funnel in enumerate(funnels)
    ]


@pytest.fixture
def _notified() -> None:
    now = timezone.now()
    event = Event.objects.create(message="m", kind="order", published_at=now)
    for number, user in enumerate(make_users(3)):
        Notification.objects.create(
            event=event,
            recipient=user,
            relayed_at=now,
            seen_at=now if number else None,
            read_at=now if number > 1 else None,
        )


@pytest.fixture
def _delivered(_notified: None) -> None:
    """Deliveries in each state, some of which were tried again; an older one; and an event in the outbox."""
    states = {"email": ("sent", "failed", "skipped"), "retired": ("pending", "sending", "held")}
    rows = list(Notification.objects.order_by("pk"))
    for transport, each in states.items():
        for notification, state in zip(rows, each, strict=True):
            is_finished = state in ("sent", "failed", "skipped")
            Delivery.objects.create(
                notification=notification,
                transport=transport,
                state=state,
                attempts=3,
                answer="no",
                due_at=None if is_finished or state == "held" else timezone.now(),
                finished_at=timezone.now() if is_finished else None,
            )
    old = timezone.now() - datetime.timedelta(days=60)
    event = Event.objects.create(message="m", kind="info & more", created_at=old, published_at=old)
    late = Notification.objects.create(event=event, recipient=rows[0].recipient, created_at=old, read_at=old)
    Delivery.objects.create(notification=late, transport="email", state="sent", created_at=old, due_at=None)
    waiting = Event.objects.create(message="m", kind="info & more")
    Notification.objects.create(event=waiting, recipient=rows[0].recipient)


def _fail(notification: Notification, **values: str) -> None:
    """A delivery that has failed now."""
    Delivery.objects.create(
        notification=notification, state="failed", due_at=None, finished_at=timezone.now(), **values
    )


# What the page shows --------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.usefixtures("_notified")
@pytest.mark.parametrize("url", ["/admin/", STATISTICS])
def test_the_page_shows_each_figure_and_a_chart_with_its_table(signalbox: Any, admin_client: Client, url: str) -> None:
    """The funnel, a chart with a description, and the same figures by hour."""
    text = page(admin_client, url)
    assert Page(text).funnel() == {"created": "3", "published": "3", "relayed": "3", "seen": "2", "read": "1"}
    (drawing,) = charts(text)
    assert "by hour (UTC)" in drawing.findtext("title", "")
    assert "3 notifications were created" in drawing.findtext("desc", "")
    columns = drawing.findall("g")
    assert len(columns) == 24
    assert "3 created, 3 relayed, 2 seen, 1 read" in columns[-1].findtext("title", "")
    _, latest, *_ = Page(text).rows["notifications"]
    assert latest[1:] == ["3", "3", "2", "1"]
    assert "Redis is unavailable" not in text
    assert "No worker is running." in text


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
@pytest.mark.parametrize(("period", "columns"), [("hour", 60), ("day", 24), ("month", 30)])
def test_each_period_has_its_own_steps(signalbox: Any, admin_client: Client, period: str, columns: int) -> None:
    """Minutes, hours or days. What is older is not counted."""
    text = page(admin_client, f"/admin/?period={period}")
    assert f'<a href="?period={period}" aria-current="page">' in text
    assert [len(drawing.findall("g")) for drawing in charts(text)] == [columns, columns]
    assert Page(text).funnel()["created"] == "4"
    assert read(admin_client, "/admin/?period=year").funnel()["created"] == "4"


@pytest.mark.django_db
def test_each_group_is_shown_as_by_stream_status(signalbox: Any, admin_client: Client) -> None:
    """Lag, pending, delayed, stuck keys, dead letters, the oldest unfinished entry, consumers, and those alive."""
    client, keys = conf.sync_redis(), conf.keys()
    client.xgroup_create(keys.stream("notifications"), "bot", id="0", mkstream=True)
    client.xgroup_createconsumer(keys.stream("notifications"), "bot", "gone")
    client.hset(keys.parked_entries("notifications", "bot"), "60000-0", "as a worker writes it")
    client.hset(keys.key_owners("notifications", "bot"), "user", "+")
    client.xadd(keys.dead_letters("notifications", "bot"), {"n": 1})
    *counts, oldest, consumers, alive = read(admin_client).table("groups")["bot"]
    assert counts == ["0", "0", "1", "1", "1"]
    assert oldest.endswith(" d")
    assert (consumers, alive) == ("1", "0: none")


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
def test_hours_are_those_of_utc_wherever_the_site_is(signalbox: Any, admin_client: Client) -> None:
    """Chart and table name the same hours."""
    signalbox.TIME_ZONE = "Asia/Kathmandu"
    text = page(admin_client, STATISTICS)
    found = Page(text)
    rows = [[first for first, *_ in found.rows[name][1:]] for name in ("notifications", "deliveries")]
    columns = [[group.findtext("title", "")[:5] for group in drawing.findall("g")] for drawing in charts(text)]
    assert len(rows[0]) == 24
    assert columns == [[row[-5:] for row in reversed(rows[0])]] * 2
    assert rows[0] == rows[1]
    assert {row[-2:] for row in rows[0]} == {"00"}


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
@pytest.mark.parametrize("url", ["/admin/", STATISTICS])
def test_english_texts_are_marked_as_english(signalbox: Any, admin_client: Client, url: str) -> None:
    """Where the site has another language: a screen reader pronounces them in the right way."""
    signalbox.LANGUAGE_CODE = "ar"
    text = page(admin_client, url)
    assert re.search(r'<html lang="ar"', text)
    assert re.search(r'id="sb-dashboard" lang="en"', text)


@pytest.mark.django_db
def test_notices_of_different_transports_are_told_apart(signalbox: Any, admin_client: Client) -> None:
    """Also by the script that refreshes the page. It announces what is new; the notices themselves are no alerts."""
    event = Event.objects.create(message="m", kind="order")
    for user in make_users(5):
        notification = Notification.objects.create(event=event, recipient=user)
        for transport in ("email", "sms"):
            _fail(notification, transport=transport, answer="no")
    text = page(admin_client, f"{STATISTICS}?format=part")
    found = re.findall(r'data-key="transport_fails (\w+)" data-urgent>', text)
    assert sorted(found) == ["email", "sms"]
    assert 'role="alert"' not in text


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
def test_deliveries_are_counted_by_transport_and_state(signalbox: Any, admin_client: Client) -> None:
    """ "Unfinished" is pending, sending and held. Success is a share of those that were sent or have failed."""
    text = page(admin_client, STATISTICS)
    transports = Page(text).table("transports")
    assert transports["email"] == ["50.0%", "1", "1", "1", "0", "3"]
    assert transports["retired"] == ["–", "0", "0", "0", "3", "3"]
    drawing = charts(text)[1]
    assert "1 sent, 1 failed, 1 skipped, 3 unfinished" in drawing.findall("g")[-1].findtext("title", "")
    assert "6 deliveries were created" in drawing.findtext("desc", "")
    heights = {
        part.get("class", "").split()[-1]: float(part.get("height", 0))
        for part in drawing.findall("g")[-1].findall("rect")[1:]
    }
    assert heights["sb-state-unfinished"] == pytest.approx(3 * heights["sb-state-failed"], abs=0.02)


@pytest.mark.django_db
@pytest.mark.usefixtures("_notified")
def test_with_redis_away_the_page_says_so_and_shows_the_rest(signalbox: Any, admin_client: Client) -> None:
    """The figures of the database are there."""
    with RedisServer() as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        server.kill()
        text = page(admin_client, "/admin/")
        found = admin_client.get(f"{STATISTICS}?format=json").json()
        conf.sync_redis().close()
    assert re.search(r'data-key="redis_unavailable " data-urgent>\s*<bdi><strong>Redis is unavailable', text)
    assert Page(text).funnel()["created"] == "3"
    assert Page(text).table("now")["Lag: entries that are not read yet"] == ["unknown"]
    assert text.count("Unknown, because Redis is unavailable.") == 3
    assert "No worker is running." not in text
    assert found["redis_error"]
    assert (found["groups"], found["rows"]["funnel"]["created"]) == ([], 3)


@pytest.mark.django_db
@pytest.mark.usefixtures("_notified")
def test_texts_from_outside_are_shown_as_texts(signalbox: Any, admin_client: Client) -> None:
    """Answers of providers, and names of kinds and transports."""
    hostile = '"><script>alert(1)</script>'
    notification = Notification.objects.latest("pk")
    Event.objects.update(kind=hostile)
    _fail(notification, transport=hostile, answer=hostile)
    text = page(admin_client, "/admin/")
    assert "<script>alert" not in text
    found = Page(text)
    assert list(found.table("kinds"))[1:] == [hostile]
    assert list(found.table("transports"))[1:] == [hostile]
    assert len([url for _, url in found.links if "script%3E" in url]) > 5
    assert list(csv.reader(io.StringIO(_csv(admin_client, "kinds"))))[1][0] == hostile


# Where the figures lead -----------------------------------------------------------------------------------------------


def _rows_behind(client: Client, url: str) -> int:
    """How many rows the list at this URL shows."""
    response = client.get(url)
    assert response.status_code == 200, url
    context = response.context
    if "/dead-letters/" in url:
        return 0 if context["page"] is None else len(context["page"].rows)
    if "/realtime/task/" in url:
        return sum(1 for _ in re.finditer(r'name="id"', response.content.decode()))
    return int(context["cl"].result_count)


def _figures(found: Page) -> Iterator[tuple[int, str]]:
    """Each number that is a link, with its URL."""
    for text, url in found.links:
        if re.fullmatch(r"[\d,]+", text):
            yield int(text.replace(",", "")), html.unescape(url)


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
@pytest.mark.parametrize("period", ["hour", "day", "month"])
def test_each_figure_leads_to_as_many_rows(signalbox: Any, admin_client: Client, period: str) -> None:
    """In every section: the list behind a link has the rows that the figure counts."""
    client, keys = conf.sync_redis(), conf.keys()
    client.xgroup_create(keys.stream("notifications"), "bot", id="0", mkstream=True)
    client.sadd(keys.streams(), keys.stream("notifications"))
    client.xadd(keys.dead_letters("notifications", "bot"), {"n": 1, "id": "1-1", "reason": "failed"})
    found = read(admin_client, f"/admin/?period={period}")
    figures = dict.fromkeys(_figures(found))
    assert len(figures) > 30
    wrong = [(count, rows, url) for count, url in figures if (rows := _rows_behind(admin_client, url)) != count]
    assert wrong == []
    seen = {re.sub(r"\?.*", "", url).rstrip("/").rpartition("/")[2] for _, url in figures}
    assert seen == {"notification", "delivery", "event", "dead-letters", "task"}


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
def test_retries_and_errors_lead_to_their_deliveries(signalbox: Any, admin_client: Client) -> None:
    """To those with more than one attempt, and to the newest example."""
    found = read(admin_client)
    retried = [url for _, url in found.links if "attempts__gt" in url]
    assert [_rows_behind(admin_client, url) for url in retried] == [3, 3]
    (failed,) = Delivery.objects.filter(state="failed")
    assert f"/admin/notifications/delivery/{failed.pk}/change/" in [url for _, url in found.links]
    assert list(found.table("errors"))[1:] == ["no"]


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
@pytest.mark.parametrize("permission", EVERYTHING)
def test_only_links_that_the_user_may_open_are_shown(signalbox: Any, permission: str) -> None:
    """Each link answers with the page, whoever follows it."""
    client = make_staff("view_event", permission)
    urls = {html.unescape(url) for _, url in read(client, "/admin/").links}
    assert {client.get(url).status_code for url in urls} == {200}


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
def test_a_difference_is_said_in_words_and_leads_to_what_nobody_handles(signalbox: Any, admin_client: Client) -> None:
    """A pending delivery that is never due is not accounted for; the list has it."""
    assert read(admin_client).table("balances")["retired"] == ["3", "0", "0", "0", "3", "0: all accounted for"]
    Delivery.objects.filter(state="pending").update(due_at=None)
    found = read(admin_client)
    assert found.table("balances")["retired"] == ["3", "0", "0", "0", "2", "1: 1 not accounted for"]
    ((text, url),) = [(text, url) for text, url in found.links if "due_at__isnull" in url]
    assert text == "1: 1 not accounted for"
    assert _rows_behind(admin_client, html.unescape(url)) == 1
    assert 'class="sb-bad" dir="auto">1: 1 not accounted for' in page(admin_client, "/admin/")


HOSTILE_FIGURES = {
    "a": "x",
    "b": "9" * 30,
    "": "1",
    b"\xff\x00": "1",
    "deliveries.send_seconds": "1",
    "deliveries.send_seconds|email|99999999": "1",
    "deliveries.send_seconds|email|" + "9" * 5000: "1",
    "deliveries.send_seconds|email|\u0663": "1",
    "<script>.x|<script>": "3",
}
HOSTILE_PROCESSES = (
    b"junk",
    b"[" * 100_000,
    b'{"name":"<script>","role":"bot","started_at":1e300,"is_alive":true,"now":{}}',
    b'{"name":"<script>","role":"bot","started_at":1,"is_alive":true,"now":{"a":5}}',
)


@pytest.mark.django_db
@pytest.mark.parametrize("period", ["hour", "day"])
def test_what_other_programs_write_to_redis_costs_no_figure(
    signalbox: Any, admin_client: Client, redis_client: redis.Redis, keys: Keys, period: str
) -> None:
    """The first page of the admin is there, with what can be read, and the copy to the database goes on."""
    now = timezone.now()
    names = (keys.statistics_minute(int(now.timestamp()) // 60), keys.statistics_hour(int(now.timestamp()) // 3600))
    for name in names:
        redis_client.hset(name, mapping={"epoch": "e" * 100, "hub.slow_count": 7, **HOSTILE_FIGURES})  # type: ignore[dict-item]
    for number, about in enumerate(HOSTILE_PROCESSES):
        redis_client.hset(keys.statistics_process(f"p{number}"), "about", about)
        redis_client.zadd(keys.statistics_processes(), {f"p{number}": now.timestamp() * 1000})
    redis_client.zadd(keys.statistics_processes(), {b"\xff": now.timestamp() * 1000, "p9": float("inf")})
    try:
        for url in ("/admin/", STATISTICS):
            assert "<script>.x" not in page(admin_client, f"{url}?period={period}")
        found = admin_client.get(f"{STATISTICS}?format=json&period={period}").json()
        assert found["counters"]["totals"]["hub.slow_count"] == 7
        assert found["counters"]["latencies"] == []
        assert [process["name"] for process in found["counters"]["processes"]] == ["<script>"]
        Rollup().copy(now)
        assert CounterPeriod.objects.get().figures["hub.slow_count"] == 7
    finally:
        redis_client.delete(*names, *(keys.statistics_process(f"p{number}") for number in range(4)))
        redis_client.delete(keys.statistics_processes())


# Who sees it ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_statistics_are_for_those_who_may_view_events(signalbox: Any) -> None:
    """Of the staff, who otherwise have the plain first page. Visitors are sent to the login."""
    viewer, other = make_staff("view_event"), make_staff("view_notification")
    assert MARK in page(viewer, "/admin/")
    assert MARK not in page(other, "/admin/")
    assert viewer.get(STATISTICS).status_code == 200
    for form in ("", "?format=part", "?format=json", "?format=csv"):
        assert other.get(STATISTICS + form).status_code == 403
        assert Client().get(STATISTICS + form).status_code == 302


@pytest.mark.django_db
def test_answers_of_providers_are_for_those_who_may_view_deliveries(signalbox: Any) -> None:
    """In no form do others see them: they may have an address."""
    (user,) = make_users(1)
    now = timezone.now()
    event = Event.objects.create(kind="info", message="m", published_at=now)
    notification = Notification.objects.create(event=event, recipient=user)
    Delivery.objects.create(
        notification=notification, transport="email", state="failed", finished_at=now, answer="no such box"
    )
    viewer, other = make_staff("view_event", "view_delivery"), make_staff("view_event")
    for url in (STATISTICS, "/admin/", *(f"{STATISTICS}?format={each}" for each in ("part", "json", "csv"))):
        assert "no such box" in page(viewer, url)
        assert "no such box" not in page(other, url)
    assert other.get(f"{STATISTICS}?format=csv&table=errors").status_code == 400
    assert read(other).table("transports")["email"][:3] == ["0.0%", "0", "1"]


@pytest.mark.django_db
def test_the_list_of_apps_stays_below_the_dashboard(signalbox: Any, admin_client: Client) -> None:
    """The site's own first page is complete."""
    text = page(admin_client, "/admin/")
    assert 'href="/admin/auth/user/"' in text.partition(MARK)[2]


def test_a_first_page_of_the_project_stays() -> None:
    """A site that names its template keeps it. Another site gets the dashboard when it registers events."""

    class OwnSite(admin.AdminSite):
        index_template = "own.html"

    own, other = OwnSite(), admin.AdminSite("other")
    for site in (own, other):
        site.register(Event, EventAdmin)
    assert own.index_template == "own.html"
    assert other.index_template == "notifications/admin/index.html"


@pytest.mark.django_db
def test_a_project_may_show_events_in_its_own_way(signalbox: Any, admin_user: User) -> None:
    """Then the first page has no dashboard."""
    request = RequestFactory().get("/admin/")
    request.user = admin_user
    site = admin.AdminSite()
    request.resolver_match = SimpleNamespace(func=SimpleNamespace(admin_site=site))
    context = Context({"request": request})
    site.register(Event, EventAdmin)
    assert admin_dashboard(context) is not None
    site.unregister(Event)
    assert admin_dashboard(context) is None
    site.register(Event)
    assert admin_dashboard(context) is None
    assert admin_dashboard(Context({})) is None


# For programs and spreadsheets ----------------------------------------------------------------------------------------


def _csv(client: Client, table: str = "", period: str = "day") -> str:
    response = client.get(STATISTICS, {"format": "csv", "period": period, **({"table": table} if table else {})})
    assert response.status_code == 200, response.content
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert response.headers["Content-Disposition"].startswith("attachment; filename=")
    return response.content.decode()


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
def test_programs_read_the_same_as_json(signalbox: Any, admin_client: Client) -> None:
    """Every figure by its name."""
    response = admin_client.get(f"{STATISTICS}?format=json&period=month")
    assert response.headers["Content-Type"] == "application/json"
    found = response.json()
    assert found["period"] == "month"
    assert found["rows"]["funnel"] == {"created": 4, "published": 3, "relayed": 3, "seen": 2, "read": 1}
    assert len(found["rows"]["points"]) == 30
    assert {each["name"] for each in found["balances"]} >= {"browsers", "planning", "email", "retired"}
    assert {each["difference"] for each in found["balances"] if each["name"] in ("email", "retired")} == {0}
    assert {group["name"] for group in found["groups"]} == {"relay", "bot"}
    assert found["outbox"] == 1
    assert isinstance(found["counters"]["by_label"], list)


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
def test_a_table_is_a_sheet_with_the_page_s_columns(signalbox: Any, admin_client: Client) -> None:
    """Numbers are numbers: shares and seconds without signs, times in full."""
    header, email, retired = csv.reader(io.StringIO(_csv(admin_client, "transports")))
    assert header == ["Transport", "Success", "Sent", "Failed", "Skipped", "Unfinished", "Retried"]
    assert email == ["email", "0.5", "1", "1", "1", "0", "3"]
    assert retired == ["retired", "", "0", "0", "0", "3", "3"]
    hours = list(csv.reader(io.StringIO(_csv(admin_client, "notifications-over-time"))))
    assert len(hours) == 25
    assert hours[-1][1:] == ["4", "3", "2", "1"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("period=year", "hour, day, month"),
        ("period=", "hour, day, month"),
        ("format=json&period=year", "hour, day, month"),
        ("format=xml", "page, part, json, csv"),
        ("format=csv&table=nothing", "funnel, balances, now"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_those_that_do(
    signalbox: Any, admin_client: Client, query: str, names: str
) -> None:
    """A program gets no figures of another period, and no page instead of data."""
    response = admin_client.get(f"{STATISTICS}?{query}")
    assert (response.status_code, response.headers["Content-Type"]) == (400, "text/plain")
    assert f"There are: {names}" in response.content.decode()


@pytest.mark.parametrize(("seconds", "value"), [(0.0123456789, 0.01235), (1.0, 1.0), (123456.789, 123500.0)])
def test_a_duration_has_four_digits_in_a_spreadsheet(seconds: float, value: float) -> None:
    """It is a measurement that may be 10 % off."""
    assert duration(seconds).value == value


@pytest.mark.django_db
@pytest.mark.usefixtures("_delivered")
def test_all_tables_are_one_list_of_figures(signalbox: Any, admin_client: Client) -> None:
    """With the table, the row and the column of each."""
    header, *lines = csv.reader(io.StringIO(_csv(admin_client)))
    assert header == ["table", "row", "column", "value"]
    assert ["funnel", "created", "Notifications", "4"] in lines
    assert ["transports", "email", "Failed", "1"] in lines
    assert {line[0] for line in lines} >= {"funnel", "balances", "transports", "kinds", "errors", "groups", "now"}


@pytest.mark.django_db
@pytest.mark.usefixtures("_notified")
@pytest.mark.parametrize("answer", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1+1"])
def test_no_cell_is_run_as_a_formula(signalbox: Any, admin_client: Client, answer: str) -> None:
    """Neither in one table nor in all."""
    notification = Notification.objects.latest("pk")
    Event.objects.update(kind=answer)
    _fail(notification, transport=answer, answer=answer)
    for table in ("", "errors", "kinds", "transports"):
        cells = [cell for line in csv.reader(io.StringIO(_csv(admin_client, table))) for cell in line]
        assert any(cell.startswith("'") for cell in cells)
        assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []


# The drawing ----------------------------------------------------------------------------------------------------------


def test_the_parts_of_a_column_add_up_to_what_was_created() -> None:
    """Each notification is in the part of the furthest that it has come; seen before relayed is no error."""
    drawn = chart.draw_notifications(points(Funnel(created=100, relayed=70, seen=80, read=30)), "day", no_links())
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
    drawn = chart.draw_notifications(points(Funnel(), Funnel(created=most), Funnel()), "day", no_links())
    assert [tick.label for tick in drawn.ticks] == labels
    assert all(segment.y >= drawn.ticks[-1].y for column in drawn.columns for segment in column.segments)


def test_a_day_without_notifications_is_described() -> None:
    """An empty chart has a description too."""
    drawn = chart.draw_notifications(points(Funnel(), Funnel()), "day", no_links())
    assert drawn.description == "No notifications were created in this time."


def test_deliveries_of_all_transports_are_one_column() -> None:
    """Their states are added."""
    transports = {name: TransportFigures(transport=name, sent=2, failed=1) for name in ("email", "sms")}
    drawn = chart.draw_deliveries([Point(start=START, funnel=Funnel(), transports=transports)], "month", no_links())
    (column,) = drawn.columns
    assert [cell.value for cell in column.cells] == [4, 2, 0, 0]
    assert column.text == "2026-03-29 UTC: 4 sent, 2 failed, 0 skipped, 0 unfinished"
