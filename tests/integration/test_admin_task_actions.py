"""Running background tasks again, and discarding them, in the admin: who may, what follows, and what is logged."""

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth.models import User
from django.test import Client

from realtime import conf
from realtime.tasks import listing, operating
from tests.support.admin_tasks import (
    MODULE,
    TASKS,
    act,
    add,
    confirm,
    counts,
    default_queue,
    fail,
    finish,
    listed,
    once,
    one,
    sign_in,
    task_url,
)
from tests.support.staff import make_staff, page

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "admin_tasks")]


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
    (id,) = finish(once.enqueue())
    once.enqueue()
    assert "1 task has a unique key that another task has now." in act(admin_client, "run_again selected", id)
    assert one(admin_client, id)["state"] == "failed"


def test_discarding_asks_first(admin_client: Client) -> None:
    """What waits fails, what has finished is deleted, and what runs stays."""
    (failed,) = finish(fail.enqueue())
    waiting, running = add.enqueue(1).id, add.enqueue(2).id
    conf.sync_redis().hset(default_queue().tasks.task_key(running), "status", "RUNNING")
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
