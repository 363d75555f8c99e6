"""The admin's pages of background tasks show no secret, and no hostile text does anything there."""

import json
import re
from typing import Any

import pytest
from django.test import Client

from realtime import conf
from realtime.tasks.masking import named_arguments
from tests.support.admin_tasks import (
    TASKS,
    add,
    default_queue,
    echo,
    fail,
    finish,
    listed,
    make_token,
    one,
    sign_in,
    task_url,
)
from tests.support.staff import page
from tests.support.tasks_of_tests import quote

HOSTILE = "<script>alert(1)</script>\u202egnp.exe"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox", "admin_tasks")]


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
    conf.sync_redis().hset(default_queue().tasks.task_key(id), "func", "nowhere.add")
    html = page(admin_client, task_url(id))
    assert "The function of this task cannot be found here." in html
    assert "p-12345" not in html
    assert "shown" in html


def test_hostile_texts_are_escaped(admin_client: Client) -> None:
    """HTML, and characters that turn the direction of a text."""
    ids = finish(fail.enqueue(HOSTILE), echo.enqueue({HOSTILE: [HOSTILE]}))
    key = default_queue().tasks.task_key(ids[1])
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
    known = default_queue()
    error = json.dumps({"class": "x.Error", "traceback": "Error: no"})
    errors = {f"error{number}": error for number in range(1, 31)}
    conf.sync_redis().hset(known.tasks.task_key(id), mapping={**errors, "error_count": 30})
    assert [each["number"] for each in one(admin_client, id)["errors"]] == list(range(21, 31))
    assert "The first 20 errors are not shown." in page(admin_client, task_url(id))


@pytest.mark.parametrize("secret", ["s3cr3t-line\nof-two-lines", 'quo"ted\\s3cr3t', 31415926535, "grüße-s3cr3t"])
def test_a_secret_is_hidden_where_an_error_quotes_it(admin_client: Client, secret: Any) -> None:
    """Also by repr(), if it has several lines, and if it is a number."""
    (id,) = finish(quote.enqueue(secret))
    for url in (TASKS, task_url(id)):
        for form in ("?state=failed", "?state=failed&format=json"):
            shown = admin_client.get(f"{url}{form}").content.decode()
            assert "is wrong" in shown or "ValueError" in shown or "•••" in shown
            assert not re.search(r"s3cr3t|of-two-lines|31415926535", shown), url
