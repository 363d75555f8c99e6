"""The bell, the inbox and their forms, over HTTP."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.template import RequestContext, Template
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils.csp import CSP
from django.views.defaults import server_error

from notifications.inbox.queries import BELL_LIMIT, PAGE_LIMIT, Bell, read_bell, safe_href
from notifications.models import Event, Notification
from notifications.services import mark_archived, mark_read, mark_seen, notify
from tests.support.domain import make_users

# Which URLs become links, on the server's pages and in the browser; items.test.js reads this file too.
LINKS = json.loads((Path(__file__).parents[1] / "support" / "links.json").read_text())
pytestmark = pytest.mark.django_db

INBOX, BELL, SEEN, READ, ARCHIVE = (f"/notifications/{name}" for name in ("", "bell/", "seen/", "read/", "archive/"))
JSON = {"accept": "application/json"}


@pytest.fixture
def alice() -> User:
    return make_users(1, prefix="alice")[0]


@pytest.fixture
def browser(alice: User) -> Client:
    """Signed in as alice."""
    client = Client()
    client.force_login(alice)
    return client


def tell(user: User, count: int = 1) -> list[int]:
    """Notify the user `count` times; returns the notifications' ids, newest first."""
    for number in range(count):
        notify(user, f"message {number}")
    return list(Notification.objects.filter(recipient=user).order_by("-id").values_list("pk", flat=True)[:count])


def shown_ids(html: bytes, name: str) -> list[int]:
    """The ids in the list of this name ("bell" or "inbox"), in order."""
    found = re.search(rf'<ul[^>]*data-signalbox-list="{name}"[^>]*>(.*?)</ul>', html.decode(), re.DOTALL)
    assert found, f"no list {name}"
    return [int(pk) for pk in re.findall(r'data-notification-id="(\d+)"', found.group(1))]


def shown_count(html: bytes) -> int:
    found = re.search(r"data-signalbox-count[^>]*>(\d+)<", html.decode())
    assert found
    return int(found.group(1))


class TestBell:
    def test_a_visitor_who_is_not_signed_in_gets_no_bell(self) -> None:
        """The tag renders nothing for an anonymous visitor."""
        assert b"signalbox-bell" not in Client().get("/").content

    def test_it_renders_nothing_for_a_request_without_a_user(self) -> None:
        """A project without the authentication middleware gets no bell, and no error."""
        page = Template("{% load signalbox %}{% notification_bell %}")
        request = RequestFactory().get("/")
        assert page.render(RequestContext(request, {"request": request})).strip() == ""

    def test_the_page_for_an_error_is_rendered_without_a_request(self, settings: Any) -> None:
        """Django renders 500.html without a request. Such a page has no bell, and renders without an error."""
        pages = {
            "base.html": "{% load signalbox %}{% notification_bell %}{% block content %}{% endblock %}",
            "500.html": "{% extends 'base.html' %}{% block content %}We are sorry.{% endblock %}",
        }
        loaders = [("django.template.loaders.locmem.Loader", pages), "django.template.loaders.app_directories.Loader"]
        backend = "django.template.backends.django.DjangoTemplates"
        settings.TEMPLATES = [{"BACKEND": backend, "OPTIONS": {"loaders": loaders}}]
        answer = server_error(RequestFactory().get("/"))
        assert (answer.status_code, answer.content.strip()) == (500, b"We are sorry.")

    @pytest.mark.urls("tests.support.no_urls")
    def test_a_project_without_the_urls_of_the_inbox_is_told_what_to_add(self, alice: User) -> None:
        """The error for a signed-in user says what to add. A visitor's page has no bell."""
        request = RequestFactory().get("/")
        request.user = alice
        page = Template("{% load signalbox %}{% notification_bell %}")
        with pytest.raises(ImproperlyConfigured, match=r'add path\("notifications/", include'):
            page.render(RequestContext(request, {"request": request}))

    @pytest.mark.parametrize("login_url", [None, "", "no_such_view"])
    def test_a_project_may_have_no_page_to_sign_in(
        self, alice: User, browser: Client, settings: Any, login_url: str | None
    ) -> None:
        """For example, if a proxy signs its users in. The bell then has no link to sign in."""
        settings.LOGIN_URL = login_url
        ids = tell(alice, 1)
        page = browser.get(BELL)
        assert shown_ids(page.content, "bell") == ids
        assert b"sign-in-url" not in page.content

    def test_it_counts_all_unread_and_lists_the_newest(self, alice: User, browser: Client) -> None:
        """The count is exact even if there are more than the list shows."""
        ids = tell(alice, BELL_LIMIT + 3)
        page = browser.get(BELL).content
        assert shown_count(page) == BELL_LIMIT + 3
        assert shown_ids(page, "bell") == ids[:BELL_LIMIT]

    @pytest.mark.parametrize(("unread", "badge"), [(0, "0"), (99, "99"), (100, "99+"), (1234, "99+")])
    def test_the_badge_has_room_for_two_figures(self, unread: int, badge: str) -> None:
        """From 100 on it shows 99+; the button's label has the exact count."""
        assert Bell(unread=unread, unseen=0, notifications=[]).badge == badge

    def test_what_is_read_or_archived_counts_no_more(self, alice: User, browser: Client) -> None:
        """A read notification stays in the list; an archived one leaves it."""
        newest, middle, oldest = tell(alice, 3)
        mark_read(alice.pk, [newest])
        mark_archived(alice.pk, [middle])
        page = browser.get(BELL).content
        assert shown_count(page) == 1
        assert shown_ids(page, "bell") == [newest, oldest]

    def test_only_ones_own_are_shown(self, browser: Client) -> None:
        """Another user's notifications are neither listed nor counted."""
        tell(make_users(1, prefix="bob")[0], 2)
        page = browser.get(BELL).content
        assert (shown_count(page), shown_ids(page, "bell")) == (0, [])

    def test_it_costs_one_query_however_much_there_is(self, alice: User, browser: Client) -> None:
        """Two queries for the session and the user, and one for the bell."""
        tell(alice, BELL_LIMIT + 1)
        with CaptureQueriesContext(connection) as queries:
            browser.get(BELL)
        assert len(queries) == 3

    def test_its_counts_and_its_list_are_of_one_moment(self, alice: User) -> None:
        """A change that is committed between two queries is in all of the results or in none. Pages rely on this."""
        tell(alice)

        def notify_after(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
            result = execute(sql, *rest)
            if sql.startswith("SELECT") and "notifications_notification" in sql and not asked:
                asked.append(sql)
                tell(alice)
            return result

        asked: list[str] = []
        with connection.execute_wrapper(notify_after):
            bell = read_bell(alice.pk)
        assert asked
        assert bell.unread == bell.unseen == len(bell.notifications) == 1
        assert read_bell(alice.pk).unread == 2

    def test_it_says_what_has_not_been_seen(self, alice: User, browser: Client) -> None:
        """A notification is unseen if it is unread and came after the bell was last opened."""
        ids = tell(alice, 3)
        mark_seen(alice.pk, ids[1:])
        page = browser.get(BELL).content.decode()
        assert 'data-signalbox-unread="3" data-signalbox-unseen="1"' in page
        assert re.findall(r'data-signalbox-item-state="(\w+)"', page)[:3] == ["unseen", "seen", "seen"]

    def test_no_cache_keeps_it(self, browser: Client) -> None:
        """No proxy or browser may show an outdated bell."""
        assert "no-store" in browser.get(BELL).headers["Cache-Control"]


class TestInbox:
    def test_pages_hold_each_notification_once_while_new_ones_arrive(self, alice: User, browser: Client) -> None:
        """The cursor is an id, so new notifications at the top do not shift it."""
        expected = tell(alice, 2 * PAGE_LIMIT + 5)
        seen: list[int] = []
        address: str | None = INBOX
        while address:
            page = browser.get(address).content
            seen += shown_ids(page, "inbox")
            tell(alice, 2)
            link = re.search(rb'href="([^"]+)" rel="next"', page)
            address = INBOX + link.group(1).decode() if link else None
        assert seen == expected

    def test_a_full_last_page_has_no_next(self, alice: User, browser: Client) -> None:
        """As many notifications as one page holds make exactly one page."""
        tell(alice, PAGE_LIMIT)
        assert b'rel="next"' not in browser.get(INBOX).content

    def test_it_can_leave_out_what_is_read(self, alice: User, browser: Client) -> None:
        """The filter also applies to the following pages."""
        ids = tell(alice, PAGE_LIMIT + 5)
        mark_read(alice.pk, ids[:3])
        page = browser.get(INBOX, {"unread": "1"}).content
        assert shown_ids(page, "inbox") == ids[3 : PAGE_LIMIT + 3]
        assert f"?unread=1&amp;before={ids[PAGE_LIMIT + 2]}" in page.decode()

    def test_it_costs_the_same_queries_for_one_as_for_many(self, alice: User, browser: Client) -> None:
        """Four queries in all: session, user, bell and page. None per notification."""
        for count in (1, PAGE_LIMIT):
            tell(alice, count)
            with CaptureQueriesContext(connection) as queries:
                browser.get(INBOX)
            assert len(queries) == 4

    def test_other_peoples_notifications_are_not_there(self, browser: Client) -> None:
        """Guessing a cursor does not show them either."""
        ids = tell(make_users(1, prefix="bob")[0], 3)
        assert shown_ids(browser.get(INBOX, {"before": ids[0]}).content, "inbox") == []

    @pytest.mark.parametrize("before", ["x", "-1", "1e3", "9" * 19, "٣", ""])
    def test_a_cursor_that_is_no_id_is_refused(self, browser: Client, before: str) -> None:
        """The answer is 400, not a database error."""
        assert browser.get(INBOX, {"before": before}).status_code == 400

    def test_it_works_in_a_project_without_a_base_template(self, alice: User, browser: Client, settings: Any) -> None:
        """The inbox then has its own page."""
        (engine,) = settings.TEMPLATES
        own = settings.BASE_DIR / "notifications" / "templates"
        settings.TEMPLATES = [{**engine, "APP_DIRS": False, "DIRS": [own]}]
        ids = tell(alice, 2)
        page = browser.get(INBOX).content
        assert shown_ids(page, "inbox") == ids
        assert b"Goods Shed" not in page


class TestForms:
    def test_reading_one_is_a_plain_form(self, alice: User, browser: Client) -> None:
        """The form redirects to the page from which it was sent."""
        first, second = tell(alice, 2)
        response = browser.post(READ, {"id": first, "next": "/orders/?page=2"})
        assert (response.status_code, response.headers["Location"]) == (302, "/orders/?page=2")
        assert [n.read_at is not None for n in Notification.objects.filter(pk__in=[first, second])] == [True, False]

    @pytest.mark.parametrize(
        "next_page",
        [
            "https://evil.example/",
            "//evil.example/",
            "/\\evil.example",
            "javascript:alert(1)",
            "http:///evil.example",
            "",
        ],
    )
    def test_it_never_leads_to_another_site(self, browser: Client, next_page: str) -> None:
        """If `next` is not an address of this site, the form redirects to the inbox."""
        assert browser.post(READ, {"id": 1, "next": next_page}).headers["Location"] == INBOX

    def test_a_script_gets_a_number_instead(self, alice: User, browser: Client) -> None:
        """The answer is the number of notifications that changed."""
        ids = tell(alice, 3)
        assert browser.post(READ, {"id": ids}, headers=JSON).json() == {"changed": 3}
        assert browser.post(READ, {"id": ids}, headers=JSON).json() == {"changed": 0}

    def test_all_means_all_that_the_page_showed(self, alice: User, browser: Client) -> None:
        """Notifications that arrived after the page was rendered stay unread."""
        newer, shown, older = tell(alice, 3)
        browser.post(READ, {"up_to": shown})
        assert list(Notification.objects.unread(alice.pk).values_list("pk", flat=True)) == [newer]
        assert set(Notification.objects.exclude(read_at=None).values_list("pk", flat=True)) == {shown, older}

    def test_opening_the_bell_marks_seen_and_not_read(self, alice: User, browser: Client) -> None:
        """The unread count does not change."""
        newest, *_ = tell(alice, 3)
        assert browser.post(SEEN, {"up_to": newest}, headers=JSON).json() == {"changed": 3}
        page = browser.get(BELL).content.decode()
        assert 'data-signalbox-unread="3" data-signalbox-unseen="0"' in page

    def test_archiving_takes_it_out_of_the_inbox(self, alice: User, browser: Client) -> None:
        """An archived notification is not counted either."""
        newest, oldest = tell(alice, 2)
        browser.post(ARCHIVE, {"id": newest})
        page = browser.get(INBOX).content
        assert shown_ids(page, "inbox") == [oldest]
        assert shown_count(page) == 1

    @pytest.mark.parametrize("address", [SEEN, READ, ARCHIVE])
    def test_other_peoples_notifications_cannot_be_changed(self, browser: Client, address: str) -> None:
        """They cannot be changed by id or by `up_to`, and the answer does not reveal that they exist."""
        bob = make_users(1, prefix="bob")[0]
        ids = tell(bob, 2)
        before = list(Notification.objects.filter(recipient=bob).values())
        assert browser.post(address, {"id": ids}, headers=JSON).json() == {"changed": 0}
        assert browser.post(address, {"up_to": ids[0]}, headers=JSON).json() == {"changed": 0}
        assert list(Notification.objects.filter(recipient=bob).values()) == before

    def test_very_many_are_marked_in_one_go(self, alice: User, browser: Client) -> None:
        """There are more ids than one SQL statement can take."""
        events = Event.objects.bulk_create(Event(message="many") for _ in range(2500))
        Notification.objects.bulk_create(Notification(event=event, recipient=alice) for event in events)
        newest = Notification.objects.filter(recipient=alice).latest("id").pk
        assert browser.post(READ, {"up_to": newest}, headers=JSON).json() == {"changed": 2500}

    @pytest.mark.parametrize(
        "fields", [{"id": "x"}, {"id": "1; DROP TABLE"}, {"id": "9" * 40}, {"up_to": ""}, {"id": ["1"] * 501}]
    )
    def test_what_is_no_id_is_refused(self, browser: Client, fields: dict[str, Any]) -> None:
        """The answer is 400, and nothing changes."""
        assert browser.post(READ, fields).status_code == 400

    @pytest.mark.parametrize("address", [SEEN, READ, ARCHIVE])
    def test_they_need_post_and_a_token(self, alice: User, address: str) -> None:
        """A link or a page of another site cannot mark anything."""
        client = Client(enforce_csrf_checks=True)
        client.force_login(alice)
        assert client.get(address).status_code == 405
        assert client.post(address, {"up_to": 1}).status_code == 403

    @pytest.mark.parametrize(
        ("method", "address"), [("get", INBOX), ("get", BELL), ("post", SEEN), ("post", READ), ("post", ARCHIVE)]
    )
    def test_a_stranger_is_sent_to_the_login_page(self, method: str, address: str) -> None:
        """This holds for every view and method."""
        response = getattr(Client(), method)(address, {"up_to": 1})
        assert (response.status_code, response.headers["Location"].split("?")[0]) == (302, "/login/")


class TestSafety:
    def test_what_a_notification_says_is_text(self, alice: User, browser: Client) -> None:
        """Markup in a notification is shown as text."""
        notify(alice, "<script>alert(1)</script>", title='"><img src=x onerror=alert(2)>', url="/orders/?a=1&b=2")
        page = browser.get(INBOX).content.decode()
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert 'href="/orders/?a=1&amp;b=2"' in page

    @pytest.mark.parametrize(
        ("url", "is_link"), [(url, True) for url in LINKS["links"]] + [(url, False) for url in LINKS["others"]]
    )
    def test_only_paths_and_web_addresses_are_links(
        self, alice: User, browser: Client, url: str, is_link: bool
    ) -> None:
        """This also holds for rows that were not created by notify()."""
        event = Event.objects.create(message="look", url=url)
        Notification.objects.create(event=event, recipient=alice)
        assert safe_href(url) == (url if is_link else "")
        item = re.search(r'<a class="signalbox-item__text"[^>]*>', browser.get(INBOX).content.decode())
        assert item
        assert ("href" in item.group()) is is_link

    @pytest.mark.parametrize("address", [INBOX, BELL, "/", "/orders/", "/login/"])
    def test_no_page_needs_what_the_content_security_policy_forbids(
        self, alice: User, browser: Client, address: str
    ) -> None:
        """The pages have no inline script, style or handler, and load nothing from another host."""
        tell(alice)
        client = Client() if address == "/login/" else browser
        page = client.get(address).content.decode()
        assert not re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", page)
        assert not re.findall(r"<style|\sstyle=|\son\w+=", page)
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)

    @pytest.mark.parametrize("address", ["/", INBOX, BELL])
    def test_each_script_and_style_sheet_has_the_nonce_of_its_page(
        self, browser: Client, settings: Any, address: str
    ) -> None:
        """Pages have a nonce if the policy requires one."""
        settings.SECURE_CSP = {"script-src": [CSP.NONCE, CSP.STRICT_DYNAMIC], "style-src": [CSP.NONCE]}
        response = browser.get(address)
        (nonce,) = set(re.findall(r"'nonce-([^']+)'", response.headers["Content-Security-Policy"]))
        tags = re.findall(r'<script[^>]*>|<link[^>]*rel="stylesheet"[^>]*>', response.content.decode())
        assert len(tags) >= 2
        assert [tag for tag in tags if f'nonce="{nonce}"' not in tag] == []

    def test_the_bell_takes_another_middlewares_nonce_or_none(self, alice: User) -> None:
        """django-csp stores the nonce on the request. Without a policy, the tags have no nonce."""
        request = RequestFactory().get("/")
        request.user = alice
        template = Template("{% load signalbox %}{% notification_bell %}")
        assert "nonce" not in template.render(RequestContext(request))
        request.csp_nonce = "abc"  # type: ignore[attr-defined]
        assert template.render(RequestContext(request)).count('nonce="abc"') == 2
