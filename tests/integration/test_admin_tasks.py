"""The admin's pages of background tasks: who sees what, what is hidden, and what staff may do."""

import asyncio
import contextlib
import datetime
import json
import logging
import queue
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote as urlquote

import pytest
import redis
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from realtime import conf
from realtime.redis.keys import Keys
from realtime.tasks import listing, operating
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.django_api import DJANGO_TASKS, task, task_backends
from realtime.tasks.masking import named_arguments
from realtime.tasks.service import TaskService
from realtime.tasks.status import STATES, KnownQueue, item_of, known_queues, read_counts
from realtime.tasks.task import RedisTask
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page
from tests.support.waiting import wait_until_sync

TASKS = "/admin/realtime/task/"
STATISTICS = "/admin/notifications/event/statistics/"
MODULE = "tests.integration.test_admin_tasks"
HOSTILE = "<script>alert(1)</script>\u202egnp.exe"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "backend")]


@task
def add(a: int, b: int = 0) -> int:
    return a + b


@task
def sign_in(user: str, password: str, options: Any = None, *tokens: str) -> None:
    raise ValueError(f"{user} cannot sign in with {password}")


@task
def make_token() -> str:
    return "the-secret-itself"


@task
def echo(value: Any) -> Any:
    return value


@task
def fail(text: str = "no") -> None:
    raise RuntimeError(text)


@pytest.fixture
def backend(signalbox: Any) -> Iterator[RedisStreamBackend]:
    signalbox.TASKS = {
        "default": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": ["default", "mail"]},
        "other": {"BACKEND": f"{DJANGO_TASKS}.backends.dummy.DummyBackend"},
    }
    found = task_backends["default"]
    assert isinstance(found, RedisStreamBackend)
    yield found


@pytest.fixture(autouse=True)
def _no_task_left(redis_client: redis.Redis, keys: Keys) -> Iterator[None]:
    yield
    for name in redis_client.scan_iter(match=f"*{keys.prefix}tasks*"):
        redis_client.delete(name)


@contextlib.contextmanager
def working(*queues: str) -> Iterator[None]:
    """A worker of the queues, on an event loop in another thread."""
    started = queue.Queue[tuple[asyncio.AbstractEventLoop, TaskService]]()

    async def work() -> None:
        found = task_backends["default"]
        assert isinstance(found, RedisStreamBackend)
        service = TaskService(found, queues or ("default",), concurrency=2)
        started.put((asyncio.get_running_loop(), service))
        await service.run()

    with ThreadPoolExecutor(1) as executor:
        work_done = executor.submit(asyncio.run, work())
        try:
            yield
        finally:
            loop, service = started.get(timeout=20)
            loop.call_soon_threadsafe(service.stop)
            work_done.result(20)


def counts(name: str = "default") -> dict[str, int]:
    """Of one queue, without zeros."""
    client = conf.sync_redis()
    (found,) = read_counts(client, [known_queues(client)[name]])
    return {state: count for state in STATES if (count := getattr(found, state))}


def finish(*results: Any) -> list[str]:
    """Let a worker finish these tasks; returns their ids."""
    with working():
        for result in results:
            wait_until_sync(lambda result=result: (result.refresh(), result.is_finished)[1])
    return [result.id for result in results]


def listed(client: Client, **query: str) -> dict[str, Any]:
    """The JSON of a list."""
    answer: dict[str, Any] = client.get(TASKS, {"queue": "default", **query, "format": "json"}).json()
    return answer


def one(client: Client, id: str) -> dict[str, Any]:
    """The JSON of a task."""
    answer: dict[str, Any] = client.get(f"{task_url(id)}?format=json").json()
    return answer


def task_url(id: str) -> str:
    return f"{TASKS}{id}/change/"


def act(client: Client, do: str, *ids: str, url: str = TASKS, **more: str) -> str:
    """Post a form; returns the page that follows."""
    form = {"do": do, "queue": "default", "state": "failed", "id": ids, **more}
    return client.post(url, form, follow=True).content.decode()


def confirm(client: Client, html: str, url: str = TASKS) -> str:
    """Submit the confirmation of a page."""
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html)
    (do,) = re.findall(r'name="do" value="([^"]*)"', html)
    form: dict[str, Any] = {name: [value for each, value in fields if each == name] for name, _ in fields}
    return client.post(url, {**form, "do": do}, follow=True).content.decode()


def conf_queue() -> KnownQueue:
    """The queue "default"."""
    return known_queues(conf.sync_redis())["default"]


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
    on_stream = add.enqueue(0).id
    for number in range(12):
        add.enqueue(number)
    client, known = conf.sync_redis(), conf_queue()
    items = client.zrevrange(known.tasks.waiting_list.waiting, 0, -1)
    # The first one went to the stream at once, and is the last of the list.
    expected = [*(item.id for item in map(item_of, items) if item), on_stream]
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
    client, known = conf.sync_redis(), conf_queue()
    running = add.enqueue(1)
    client.xgroup_create(known.tasks.stream, "workers", id="0")
    client.xreadgroup("workers", "w", {known.tasks.stream: ">"})
    client.hset(known.tasks.task_key(running.id), mapping={"status": "RUNNING", "workers": "w", "attempted": 1000})
    held = add.enqueue(2)
    client.xreadgroup("workers", "w", {known.tasks.stream: ">"})
    waiting = [add.enqueue(number).id for number in range(2)]
    assert counts() == {"running": 1, "ready": 3}
    assert [row["id"] for row in listed(admin_client, state="running")["tasks"]] == [running.id]
    ready = {row["id"] for row in listed(admin_client, state="ready")["tasks"]}
    assert ready == {held.id, *waiting}
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


# Secrets and hostile texts --------------------------------------------------------------------------------------------


def test_secrets_are_hidden_wherever_they_are(admin_client: Client) -> None:
    """By the name of a parameter, by position or keyword; in nested names, in errors that quote them, and in texts."""
    options = {
        "apiKey": "k-111111",
        "deep": [{"client_secret": {"a": "k-222222"}}],
        "url": "https://u:k-333333@shop.example/k-444444",
    }
    ids = finish(
        sign_in.enqueue("ali", "k-555555", options, "k-666666", "k-777777"),
        sign_in.enqueue("ali", password="k-555555"),
        make_token.enqueue(),
        echo.enqueue({"session": {"auth_token": "k-888888"}, "text": "password=k-999999 is wrong"}),
    )
    for url in (TASKS, *map(task_url, ids)):
        for form in ("", "?format=json", "?format=part"):
            shown = admin_client.get(f"{url}{form}").content.decode()
            assert re.findall(r"k-\d{6}|secret-itself", shown) == [], url
    found = one(admin_client, ids[0])
    hidden = {each["name"]: each["is_hidden"] for each in found["arguments"]}
    assert hidden == {"user": False, "password": True, "options": False, "tokens": True}
    assert "ali cannot sign in with •••" in found["errors"][0]["traceback"]
    assert "https://shop.example/…" in found["arguments"][2]["value"]
    assert "cannot sign in with •••" in listed(admin_client, state="failed")["tasks"][0]["error"]


@pytest.mark.parametrize(
    ("name", "is_hidden"),
    [
        ("api", True),
        ("auth", True),
        ("primary_key", True),
        ("author", False),
        ("passenger", False),
        ("capital", False),
        ("clientPass", True),
    ],
)
def test_the_words_of_djangos_error_pages_are_secret_too(name: str, is_hidden: bool) -> None:
    """But not where they are a part of another word."""
    assert [each.is_hidden for each in named_arguments(None, [], {name: "x"}, secrets=())] == [is_hidden]


def test_without_its_function_the_positional_arguments_are_hidden(admin_client: Client) -> None:
    """Their names are not known. The page says why."""
    id = add.enqueue("p-12345", b="shown").id
    conf.sync_redis().hset(conf_queue().tasks.task_key(id), "func", "nowhere.add")
    html = page(admin_client, task_url(id))
    assert "The function of this task cannot be found here." in html
    assert "p-12345" not in html
    assert "shown" in html


def test_hostile_texts_are_escaped(admin_client: Client) -> None:
    """HTML, and characters that turn the direction of a text."""
    ids = finish(fail.enqueue(HOSTILE), echo.enqueue({HOSTILE: [HOSTILE]}))
    key = conf_queue().tasks.task_key(ids[1])
    conf.sync_redis().hset(key, mapping={"func": f"a.{HOSTILE}", "workers": HOSTILE})
    for url in (TASKS, f"{TASKS}?queue=default&state=successful", *map(task_url, ids)):
        for form in ("html", "part"):
            shown = admin_client.get(
                url,
                query_params={"format": form}
                | dict([("queue", "default"), ("state", "successful")] if "state" in url else []),
            ).content.decode()
            assert "<script>alert" not in shown
            assert "\u202e" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202egnp.exe" in page(admin_client, task_url(ids[0]))
    query = {"queue": HOSTILE, "state": HOSTILE, "func": HOSTILE}
    assert "<script>alert" not in admin_client.get(TASKS, query).content.decode()


def test_long_contents_are_shortened(admin_client: Client) -> None:
    """The page says how long they are; of many errors, the newest are shown."""
    (id,) = finish(echo.enqueue(["x" * 3000, list(range(5000))]))
    found = one(admin_client, id)
    for shown in (found["value"], found["arguments"][0]["value"]):
        assert "… (3,000 characters)" in shown
        assert len(shown) < 11_000
    known = conf_queue()
    error = json.dumps({"class": "x.Error", "traceback": "Error: no"})
    errors = {f"error{number}": error for number in range(1, 31)}
    conf.sync_redis().hset(known.tasks.task_key(id), mapping={**errors, "error_count": 30})
    assert [each["number"] for each in one(admin_client, id)["errors"]] == list(range(21, 31))
    assert "The first 20 errors are not shown." in page(admin_client, task_url(id))


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


# Permissions ----------------------------------------------------------------------------------------------------------


def test_each_page_needs_the_permission_to_see_tasks(db: None) -> None:
    """Tasks may contain personal data: other staff see neither the pages nor a link to them."""
    (id,) = finish(add.enqueue(1))
    may, may_not = make_staff("view_task"), make_staff("view_logpipeline", "change_task", "delete_task")
    assert "Queues" in page(may, TASKS)
    assert TASKS in page(may, "/admin/")
    for url in (TASKS, task_url(id)):
        for part in ("", "?format=json", "?format=part"):
            assert may.get(f"{url}{part}").status_code == 200
            assert may_not.get(f"{url}{part}").status_code == 403
            assert Client().get(f"{url}{part}").status_code == 302
        assert may_not.post(url, {"do": "run_again selected", "queue": "default", "id": id}).status_code == 403
        assert Client().post(url, {"do": "run_again selected", "queue": "default", "id": id}).status_code == 302
    assert counts() == {"successful": 1}


@pytest.mark.parametrize(
    ("permission", "allowed", "refused"),
    [("change_task", "run_again", "discard"), ("delete_task", "discard", "run_again")],
)
def test_each_action_needs_its_permission(permission: str, allowed: str, refused: str) -> None:
    """Without it there is no button, and a form that was made by hand is refused, also if it is confirmed."""
    (id,) = finish(fail.enqueue())
    viewer, staff = make_staff("view_task"), make_staff("view_task", permission)
    for url in (TASKS, task_url(id)):
        assert 'name="do"' not in page(viewer, url)
        html = page(staff, url)
        assert f'value="{allowed} selected"' in html
        assert f'value="{refused} ' not in html
        for scope in ("selected", "all"):
            form = {
                "do": f"{refused} {scope}",
                "queue": "default",
                "id": id,
                "func": f"{MODULE}.fail",
                "until": 9**15,
                "confirmed": "yes",
            }
            assert staff.post(url, form).status_code == 403
            assert viewer.post(url, form).status_code == 403
    assert counts() == {"failed": 1}
    assert not LogEntry.objects.exists()


def test_a_form_of_another_site_does_nothing() -> None:
    (id,) = finish(fail.enqueue())
    admin = User.objects.create_superuser("root")
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin)
    for url in (TASKS, task_url(id)):
        form = {"do": "discard selected", "queue": "default", "id": id, "confirmed": "yes"}
        assert client.post(url, form).status_code == 403
        assert client.get(url, form).status_code == 200
    assert counts() == {"failed": 1}


# Actions --------------------------------------------------------------------------------------------------------------


def test_selected_tasks_run_again(admin_client: Client) -> None:
    """The message says why others do not, and the log of actions has an entry."""
    failed = finish(fail.enqueue(), fail.enqueue())
    waiting = add.enqueue(1).id
    html = act(admin_client, "run_again selected", *failed, waiting, "default.nosuchtask", "mail.x", failed[0])
    assert "2 tasks will run again." in html
    assert "1 task has not finished, so it runs anyway." in html
    assert "1 task does not exist any more." in html
    assert counts() == {"ready": 3}
    entry = LogEntry.objects.get()
    assert (entry.action_flag, entry.object_repr) == (CHANGE, "tasks of the queue default")
    assert entry.change_message.startswith(f"Run again: 2 of 4 ({failed[0]}, ")
    found = one(admin_client, failed[0])
    assert (found["state"], found["tries"], found["earlier_tries"]) == ("ready", 0, 1)


def test_one_task_runs_again_and_is_found_in_the_log_of_actions(admin_client: Client) -> None:
    (id,) = finish(fail.enqueue())
    html = act(admin_client, "run_again selected", url=task_url(id))
    assert "1 task will run again." in html
    assert 'id="rt-facts"' in html
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.get_admin_url()) == (id, task_url(id))
    assert task_url(id) in page(admin_client, "/admin/")


def test_a_task_whose_unique_key_another_one_has_does_not_run_again(admin_client: Client) -> None:
    unique = RedisTask(
        **{
            name: getattr(fail, name)
            for name in ("priority", "func", "backend", "queue_name", "run_after", "takes_context")
        },
        unique_key="one",
    )
    (id,) = finish(unique.enqueue())
    unique.enqueue()
    assert "1 task has a unique key that another task has now." in act(admin_client, "run_again selected", id)
    assert one(admin_client, id)["state"] == "failed"


def test_discarding_asks_first(admin_client: Client) -> None:
    """What waits fails, what has finished is deleted, and what runs stays."""
    (failed,) = finish(fail.enqueue())
    waiting, running = add.enqueue(1).id, add.enqueue(2).id
    conf.sync_redis().hset(conf_queue().tasks.task_key(running), "status", "RUNNING")
    html = act(admin_client, "discard selected", failed, waiting, running)
    assert "Discard 3 tasks?" in html
    assert one(admin_client, waiting)["state"] == "ready"
    html = confirm(admin_client, html)
    assert "2 tasks were discarded." in html
    assert "1 task is running, so it was not discarded." in html
    assert one(admin_client, waiting)["errors"][0]["kind"] == "realtime.exceptions.TaskDiscarded"
    assert admin_client.get(task_url(failed)).status_code == 404
    assert LogEntry.objects.get().action_flag == DELETION


def test_discarding_one_task_leads_back_to_what_is_left(admin_client: Client) -> None:
    """To the task, or to the list if it was deleted."""
    id = add.enqueue(1).id
    for _ in range(2):
        html = act(admin_client, "discard selected", url=task_url(id))
        assert "Discard 1 task?" in html
        html = confirm(admin_client, html, task_url(id))
        assert "1 task was discarded." in html
    assert "rt-tasks-heading" in html
    assert counts() == {}


def test_all_failed_tasks_of_a_function_run_again(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a confirmation, in steps; not those of others, nor those that fail later."""
    monkeypatch.setattr(operating, "STEP_SIZE", 2)
    monkeypatch.setattr(listing, "SEARCH_BATCH", 2)
    (other,) = finish(sign_in.enqueue("a", "b"))
    finish(*(fail.enqueue(str(number)) for number in range(5)))
    html = act(admin_client, "run_again all", func=f"{MODULE}.fail")
    assert "Run 5 tasks again?" in html
    assert counts() == {"failed": 6}
    (late,) = finish(fail.enqueue("late"))
    assert "5 tasks will run again." in confirm(admin_client, html)
    assert counts() == {"ready": 5, "failed": 2}
    assert {row["id"] for row in listed(admin_client, state="failed")["tasks"]} == {late, other}


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"do": "run_again"},
        {"do": "explode selected"},
        {"do": "run_again selected", "queue": "nowhere"},
        {"do": "run_again all"},
        {"do": "run_again selected", "id": ""},
        {"do": "discard all", "func": "x", "confirmed": "yes", "until": "x"},
    ],
)
def test_an_incomplete_form_does_nothing(admin_client: Client, form: dict[str, str]) -> None:
    finish(fail.enqueue())
    html = admin_client.post(TASKS, {"queue": "default", **form}, follow=True).content.decode()
    assert "Nothing was done" in html
    assert counts() == {"failed": 1}
    assert not LogEntry.objects.exists()


# The statistics -------------------------------------------------------------------------------------------------------


def test_the_statistics_count_tasks_by_state(admin_client: Client) -> None:
    """Of all queues; with a link for those who may see tasks."""
    finish(add.enqueue(1), fail.enqueue())
    add.using(queue_name="mail").enqueue(1)
    add.enqueue(1)
    section = re.search(r'<section aria-labelledby="tasks">.*?</section>', page(admin_client, STATISTICS), re.DOTALL)
    assert section is not None
    figures = dict(re.findall(r"<dt>(\w+)</dt>\s*<dd><strong>([^<]+)</strong>", section[0]))
    assert figures == {"ready": "2", "scheduled": "0", "running": "0", "failed": "1", "successful": "1"}
    assert "default 1, mail 1" in section[0]
    assert f'href="{TASKS}"' in section[0]
    found = admin_client.get(f"{STATISTICS}?format=json").json()["tasks"]
    assert [(each["queue"], each["ready"], each["failed"]) for each in found] == [("default", 1, 1), ("mail", 1, 0)]
    html = page(make_staff("view_event"), STATISTICS)
    assert "Background tasks" in html
    assert f'href="{TASKS}"' not in html


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
    conf.sync_redis().set(conf_queue().tasks.stream, "text")
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
