"""The admin's pages of background tasks: counts, lists, one task, and the counts among the statistics."""

import datetime
import logging
import re
import subprocess
import sys
from html import unescape
from typing import Any
from urllib.parse import quote as urlquote

import pytest
from django.test import Client
from django.utils import timezone

from realtime import conf
from realtime.tasks import listing
from realtime.tasks.django_api import DJANGO_TASKS
from realtime.tasks.record import item_of
from realtime.tasks.status import STATES
from tests.support.admin_tasks import (
    MODULE,
    TASKS,
    act,
    add,
    counts,
    default_queue,
    echo,
    fail,
    finish,
    hold_next,
    listed,
    one,
    put_on_stream,
    task_url,
    try_again,
    working,
)
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page
from tests.support.waiting import wait_until_sync

STATISTICS = "/admin/notifications/event/statistics/"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "admin_tasks")]


# Counts and lists -----------------------------------------------------------------------------------------------------


def test_each_queue_has_the_count_of_each_state(admin_client: Client) -> None:
    """Also a queue that had no task."""
    finish(add.enqueue(1, 2), fail.enqueue())
    later = add.using(run_after=timezone.now() + datetime.timedelta(hours=1)).enqueue(1)
    for _ in range(3):
        add.enqueue(1)
    found = listed(admin_client)
    assert [each["queue"] for each in found["queues"]] == ["default", "mail"]
    figures, empty = found["queues"]
    assert {name: figures[name] for name in STATES} == {
        "ready": 3,
        "scheduled": 1,
        "running": 0,
        "failed": 1,
        "successful": 1,
    }
    assert {empty[name] for name in STATES} == {0}
    assert (figures["workers"], figures["is_exact"]) == (0, True)
    assert [row["id"] for row in listed(admin_client, state="scheduled")["tasks"]] == [later.id]
    html = page(admin_client, TASKS)
    assert "No worker of the queue default is running." in html
    assert "queue mail is running" not in html
    assert re.search(r'aria-current="page" aria-label="Failed, queue default: 1"', html)


def test_a_list_is_paged_by_cursor_and_stays_in_order_meanwhile(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newest first; a task that leaves or joins the list between two pages moves no other one out of them."""
    monkeypatch.setattr(listing, "PAGE_SIZE", 3)
    monkeypatch.setattr(listing, "PAGE_BATCH", 4)
    for number in range(13):
        add.enqueue(number)
    client, known = conf.sync_redis(), default_queue()
    items = client.zrevrange(known.tasks.waiting_list.waiting, 0, -1)
    expected = [item.id for item in map(item_of, items) if item]
    assert len(expected) == 13
    first = listed(admin_client, state="ready")
    seen, cursor = [row["id"] for row in first["tasks"]], first["older"]
    assert len(seen) == 3
    known.tasks.discard(client, seen[-1:])
    new = add.enqueue(99).id
    while cursor:
        part = listed(admin_client, state="ready", after=cursor)
        seen += [row["id"] for row in part["tasks"]]
        cursor = part["older"]
    assert [id for id in seen if id != new] == expected
    html = admin_client.get(TASKS, {"queue": "default", "state": "ready"}).content.decode()
    assert 'rel="next"' in html


@pytest.mark.parametrize(
    "cursor", ["x", "1~", "5", "9" * 40, "1-1", "1~x\n", "-1~0:default.x#1", "18446744073709551615-1"]
)
def test_a_cursor_that_nobody_gave_is_no_error(admin_client: Client, cursor: str) -> None:
    add.enqueue(1)
    for state in STATES:
        assert admin_client.get(TASKS, {"queue": "default", "state": state, "after": cursor}).status_code == 200


def test_a_function_is_searched_for_among_a_limited_number_of_tasks(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says so, and goes on from there."""
    monkeypatch.setattr(listing, "SCAN_LIMIT", 4)
    monkeypatch.setattr(listing, "SEARCH_BATCH", 2)
    wanted = echo.enqueue(1)
    finish(wanted)
    finish(*(add.enqueue(number) for number in range(6)))
    query = {"queue": "default", "state": "successful", "func": f"{MODULE}.echo"}
    html = admin_client.get(TASKS, query).content.decode()
    assert "the search has not reached the last of them" in html
    assert "There are none among those that were searched." in html
    found = listed(admin_client, **query)
    assert (found["tasks"], found["is_cut"]) == ([], True)
    rest = listed(admin_client, **query, after=found["older"])
    assert [row["id"] for row in rest["tasks"]] == [wanted.id]
    assert [row["id"] for row in listed(admin_client, state="successful", func=f"{MODULE}.nothing")["tasks"]] == []


def test_running_tasks_and_those_fetched_ahead_are_told_apart(admin_client: Client) -> None:
    """What a worker holds and has not begun is ready."""
    client, known = conf.sync_redis(), default_queue()
    running = add.enqueue(1)
    client.xgroup_create(known.tasks.stream, "workers", id="0")
    hold_next(client, known)
    client.hset(known.tasks.task_key(running.id), mapping={"status": "RUNNING", "workers": "w", "attempted": 1000})
    held = add.enqueue(2)
    hold_next(client, known)
    unread = add.enqueue(3)
    put_on_stream(client, known)
    waiting = [add.enqueue(number).id for number in range(2)]
    assert counts() == {"running": 1, "ready": 4}
    assert [row["id"] for row in listed(admin_client, state="running")["tasks"]] == [running.id]
    ready = {row["id"] for row in listed(admin_client, state="ready")["tasks"]}
    assert ready == {held.id, unread.id, *waiting}
    found = one(admin_client, running.id)
    assert (found["state"], found["workers"]) == ("running", ["w"])
    assert found["duration_seconds"] > 1_000_000


# One task -------------------------------------------------------------------------------------------------------------


def test_a_task_has_a_page_with_all_that_happened(admin_client: Client, signalbox: Any) -> None:
    """State, tries, worker, traceback, arguments by name; times in the current time zone."""
    signalbox.TIME_ZONE = "Asia/Kathmandu"
    (id,) = finish(fail.enqueue("the disk is full"))
    html = page(admin_client, task_url(id))
    assert "RuntimeError: the disk is full" in html
    assert "in fail" in html
    assert "1 of 1" in html
    found = one(admin_client, id)
    assert (found["state"], found["queue"], found["backend"], found["tries"]) == ("failed", "default", "default", 1)
    assert len(found["workers"]) == 1
    assert found["errors"][0]["kind"] == "builtins.RuntimeError"
    assert found["arguments"] == [{"name": "text", "value": '"the disk is full"', "is_hidden": False}]
    local = timezone.localtime(datetime.datetime.fromisoformat(found["finished_at"]))
    assert local.utcoffset() == datetime.timedelta(hours=5, minutes=45)
    assert f">{local:%Y-%m-%d %H:%M:%S}</time>" in html
    (row,) = listed(admin_client, state="failed")["tasks"]
    assert (row["id"], row["error"]) == (id, "RuntimeError: the disk is full")


def test_a_task_that_waits_for_another_attempt_is_scheduled(admin_client: Client) -> None:
    """With the errors so far, and when it is due; also one that was enqueued for later."""
    result = try_again.enqueue()
    moment = timezone.now().replace(microsecond=0) + datetime.timedelta(hours=2)
    later = add.using(run_after=moment).enqueue(1)
    with working():
        wait_until_sync(lambda: counts() == {"scheduled": 2})
    found = one(admin_client, result.id)
    assert (found["state"], found["tries"], found["max_attempts"], found["timeout_seconds"]) == ("scheduled", 1, 3, 60)
    assert found["errors"][0]["kind"] == "builtins.RuntimeError"
    due = datetime.datetime.fromisoformat(found["due_at"])
    assert datetime.timedelta(minutes=50) < due - timezone.now() < datetime.timedelta(minutes=70)
    assert "1 of 3" in page(admin_client, task_url(result.id))
    other = one(admin_client, later.id)
    assert datetime.datetime.fromisoformat(other["run_after"]) == moment
    assert datetime.datetime.fromisoformat(other["due_at"]) == moment
    # The next one first.
    assert [row["id"] for row in listed(admin_client, state="scheduled")["tasks"]] == [result.id, later.id]


def test_a_value_that_is_returned_is_shown(admin_client: Client) -> None:
    nothing, sum_id = finish(echo.enqueue(None), add.enqueue(1, b=2))
    assert (one(admin_client, sum_id)["value"], one(admin_client, nothing)["value"]) == ("3", "null")
    assert [(each["name"], each["value"]) for each in one(admin_client, sum_id)["arguments"]] == [
        ("a", "1"),
        ("b", "2"),
    ]


@pytest.mark.parametrize(
    "id", ["default.", "default.nosuchtask", "nowhere.abc", "x", "default.a/b", "de\nfault.x", "\0.x"]
)
def test_an_id_that_is_not_there_is_not_found(admin_client: Client, id: str) -> None:
    for suffix in ("", "?format=json", "?format=part"):
        assert admin_client.get(f"{task_url(urlquote(id, safe=''))}{suffix}").status_code == 404


@pytest.mark.parametrize(
    ("language", "direction", "text"),
    [("de", "ltr", "1 Aufgabe wird erneut ausgeführt."), ("ar", "rtl", "مهام ستُشغَّل مجددًا: 1.")],
)
def test_the_pages_speak_the_language_of_the_site(
    admin_client: Client, signalbox: Any, language: str, direction: str, text: str
) -> None:
    """What is no text of that language keeps its own direction."""
    signalbox.LANGUAGE_CODE = language
    (id,) = finish(fail.enqueue("(1) تم شحن طلبك"))
    html = act(admin_client, "run_again selected", id)
    assert text in html
    assert f'dir="{direction}"' in html
    assert f'<span dir="ltr">{id}</span>' in page(admin_client, task_url(id))
    finish(fail.enqueue("(1) تم شحن طلبك"))
    assert '<span dir="auto">RuntimeError: (1) تم شحن طلبك</span>' in page(admin_client, TASKS)


# The statistics -------------------------------------------------------------------------------------------------------


def test_the_statistics_count_tasks_by_state(admin_client: Client) -> None:
    """By queue; with links for those who may see tasks, which lead to as many rows."""
    finish(add.enqueue(1), fail.enqueue())
    add.using(queue_name="mail").enqueue(1)
    add.enqueue(1)
    section = re.search(r'<section aria-labelledby="sb-tasks".*?</section>', page(admin_client, STATISTICS), re.DOTALL)
    assert section is not None
    figures = re.findall(r'<a href="([^"]+\?queue=(\w+)&amp;state=(\w+))"[^>]*>(\d+)</a>', section[0])
    counts = {(queue, state): int(count) for _, queue, state, count in figures}
    states = ("ready", "scheduled", "running", "failed", "successful")
    assert counts == {
        **{("default", state): int(state in ("ready", "failed", "successful")) for state in states},
        **{("mail", state): int(state == "ready") for state in states},
    }
    for url, _, _, count in figures:
        assert len(admin_client.get(f"{unescape(url)}&format=json").json()["tasks"]) == int(count)
    assert f'href="{TASKS}"' in section[0]
    found = admin_client.get(f"{STATISTICS}?format=json").json()["tasks"]
    assert [(each["queue"], each["ready"], each["failed"]) for each in found] == [("default", 1, 1), ("mail", 1, 0)]
    text = page(make_staff("view_event"), STATISTICS)
    assert "Background tasks" in text
    assert TASKS not in text


def test_the_statistics_have_no_tasks_where_there_are_no_queues(signalbox: Any, admin_client: Client) -> None:
    signalbox.TASKS = {"default": {"BACKEND": f"{DJANGO_TASKS}.backends.dummy.DummyBackend"}}
    assert "Background tasks" not in page(admin_client, STATISTICS)
    assert admin_client.get(f"{STATISTICS}?format=json").json()["tasks"] == []


# Without Redis, without tasks -----------------------------------------------------------------------------------------


def test_without_redis_the_pages_say_so(signalbox: Any, admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """With status 503; an action does nothing."""
    caplog.set_level(logging.CRITICAL, logger="django.request")
    with RedisServer() as server:
        conf.sync_redis().close()
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        server.kill()
        for url in (TASKS, task_url("default.x")):
            for form in ("", "?format=part"):
                response = admin_client.get(f"{url}{form}")
                assert response.status_code == 503
                assert "The tasks cannot be read from Redis." in response.content.decode()
            answer = admin_client.get(f"{url}?format=json")
            assert (answer.status_code, list(answer.json())) == (503, ["error"])
            form = {"do": "run_again selected", "queue": "default", "id": "default.x"}
            assert admin_client.post(url, form, follow=True).status_code == 503


def test_a_key_of_another_type_is_an_error_on_the_page(admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="django.request")
    conf.sync_redis().set(default_queue().tasks.stream, "text")
    response = admin_client.get(TASKS)
    assert response.status_code == 503
    assert "WRONGTYPE" in response.content.decode()


def test_without_a_backend_of_ours_the_page_says_what_is_missing(signalbox: Any, admin_client: Client) -> None:
    """Another backend, or one that cannot be made, is no error here."""
    for path in (f"{DJANGO_TASKS}.backends.dummy.DummyBackend", "nowhere.Backend"):
        signalbox.TASKS = {"default": {"BACKEND": path}}
        assert "No backend in the setting" in page(admin_client, TASKS)
    assert admin_client.get(task_url("default.x")).status_code == 404


def test_a_backend_that_takes_any_queue_has_those_with_a_worker(signalbox: Any, admin_client: Client) -> None:
    signalbox.TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": []}}
    task = add.using(queue_name="reports").enqueue(1)
    with working("reports"):
        wait_until_sync(lambda: (task.refresh(), task.is_finished)[1])
    assert [(each["queue"], each["successful"]) for each in listed(admin_client)["queues"]] == [("reports", 1)]
    assert one(admin_client, task.id)["value"] == "1"


WITHOUT_FRAMEWORK = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ("django.tasks", "django_tasks") else find(name, *more)
import django
django.setup()
from django.contrib import admin
from notifications.statistics import read_tasks
from realtime.models import LogPipeline, Task
print(admin.site.is_registered(LogPipeline), admin.site.is_registered(Task), read_tasks(None))
"""


def test_without_a_tasks_framework_there_is_no_such_page() -> None:
    """The rest of the admin and the statistics work."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FRAMEWORK], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True False ()\n"
