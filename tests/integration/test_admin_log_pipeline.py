"""The admin's page "Log pipeline", as HTML and as JSON."""

import asyncio
import contextlib
import io
import json
import logging
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from realtime import conf
from realtime.redis.keys import Keys
from realtime.sinks import NdjsonSink, Sink, base
from realtime.sinks.service import SinkService
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page
from tests.support.waiting import wait_until_sync

PIPELINE = "/admin/realtime/logpipeline/"
MOMENT = "2026-01-02T03:04:05.600000Z"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signalbox")]


@pytest.fixture(autouse=True)
def _no_stream_left(redis_client: redis.Redis, keys: Keys) -> Iterator[None]:
    yield
    for name in redis_client.scan_iter(match=f"*{keys.prefix}logs*"):
        redis_client.delete(name)


@pytest.fixture
def sinks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, type[Sink]]:
    """Two sinks, and no others."""
    monkeypatch.setattr(base, "_sinks", [])

    class Archive(NdjsonSink):
        url = tmp_path
        roll_seconds = 0.05

    class Remote(NdjsonSink):
        url = "s3://user:secret@bucket/games?key=secret"
        queues = ("games", "lobby")

    return {sink.name: sink for sink in (Archive, Remote)}


def add(client: redis.Redis, keys: Keys, **fields: Any) -> None:
    body = {"level": "INFO", "timestamp": MOMENT, "logger": "shop", "message": "Order A7", **fields}
    client.xadd(keys.stream("logs"), {"record": json.dumps(body)})


@contextlib.contextmanager
def working(sink: type[Sink]) -> Iterator[None]:
    """A worker of the sink, on an event loop in another thread."""
    service, loops = SinkService([sink]), queue.Queue[asyncio.AbstractEventLoop]()

    async def work() -> None:
        loops.put(asyncio.get_running_loop())
        await service.run()

    with ThreadPoolExecutor(1) as executor:
        work_done = executor.submit(asyncio.run, work())
        try:
            yield
        finally:
            loops.get().call_soon_threadsafe(service.stop)
            work_done.result(20)


def figures(client: Client) -> dict[str, Any]:
    """The JSON of the page."""
    answer: dict[str, Any] = client.get(f"{PIPELINE}?format=json").json()
    return answer


@pytest.mark.usefixtures("sinks")
def test_the_page_shows_the_sinks_and_the_latest_records(
    admin_client: Client, redis_client: redis.Redis, keys: Keys
) -> None:
    """How many records wait, where files go, and the latest records; a long text is cut off."""
    for number in range(20):
        add(redis_client, keys, message=f"Order {number}", task={"order": number})
    add(redis_client, keys, message="x" * 1000, queue="games", level="WARNING")
    html = page(admin_client, PIPELINE)
    assert "No worker of Archive is running." in html
    assert "s3://bucket/games" in html
    assert "secret" not in html
    assert "games, lobby" in html
    found = figures(admin_client)
    assert found["added"] == 21
    assert [(sink["name"], sink["kind"], sink["place"] == "s3://bucket/games") for sink in found["sinks"]] == [
        ("Archive", "NdjsonSink", False),
        ("Remote", "NdjsonSink", True),
    ]
    assert {(sink["group"]["lag"], sink["group"]["finished"]) for sink in found["sinks"]} == {(21, 0)}
    assert len(found["latest"]) == 12
    newest, before, *_ = found["latest"]
    assert (len(newest["message"]), newest["queue"], newest["level"]) == (300, "games", "WARNING")
    assert (before["message"], before["task"]) == ("Order 19", '{"order":19}')


def test_the_figures_follow_the_work(
    admin_client: Client, redis_client: redis.Redis, keys: Keys, sinks: dict[str, type[Sink]]
) -> None:
    """Running workers, finished records and dead letters are counted."""
    for _ in range(3):
        add(redis_client, keys)
    redis_client.xadd(keys.stream("logs"), {"record": "not JSON"})

    with working(sinks["Archive"]):
        wait_until_sync(lambda: figures(admin_client)["sinks"][0]["group"]["finished"] == 3)
        assert figures(admin_client)["sinks"][0]["group"]["workers"] == 1
        html = page(admin_client, PIPELINE)
        assert "No worker of Remote is running." in html
        assert "No worker of Archive" not in html
    group = figures(admin_client)["sinks"][0]["group"]
    assert (group["finished"], group["dead"], group["lag"], group["workers"]) == (3, 1, 0, 0)


@pytest.mark.usefixtures("sinks")
def test_the_values_of_a_record_are_escaped(admin_client: Client, redis_client: redis.Redis, keys: Keys) -> None:
    """Also, an entry that is not a log record does not hide the others."""
    add(redis_client, keys, message="<script>alert(1)</script>", task="</code><b>")
    redis_client.xadd(keys.stream("logs"), {"other": "field"})
    redis_client.xadd(keys.stream("logs"), {"record": "not JSON"})
    html = page(admin_client, PIPELINE)
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html
    assert "</code><b>" not in html
    assert len(figures(admin_client)["latest"]) == 1


@pytest.mark.usefixtures("sinks")
def test_the_page_needs_its_permission(db: None) -> None:
    """Log records may contain personal data: other staff see neither the page nor a link to it."""
    may, may_not = make_staff("view_logpipeline"), make_staff("view_user")
    assert "Sinks" in page(may, PIPELINE)
    assert PIPELINE in page(may, "/admin/")
    for part in ("", "?format=json", "?format=part"):
        assert may_not.get(PIPELINE + part).status_code == 403
        assert Client().get(PIPELINE + part).status_code == 302
    assert PIPELINE not in page(may_not, "/admin/")


@pytest.mark.usefixtures("sinks")
def test_dead_letters_are_linked_for_those_who_may_see_them(db: None, keys: Keys) -> None:
    """The page that lists them belongs to another app, and has a permission of its own."""
    group = f"stream={quote(keys.stream('logs'), safe='')}&amp;group=Archive"
    link = f'href="{reverse("admin:notifications_delivery_dead_letters")}?{group}"'
    may, may_not = make_staff("view_logpipeline", "view_dead_letters"), make_staff("view_logpipeline")
    for query in ("", "?format=part"):
        assert link in may.get(PIPELINE + query).content.decode().partition("rt-sinks-heading")[2]
        assert link not in may_not.get(PIPELINE + query).content.decode()


def test_without_a_sink_it_says_what_is_missing(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_sinks", [])
    assert "No sink is declared" in page(admin_client, PIPELINE)
    assert figures(admin_client)["sinks"] == []


@pytest.mark.usefixtures("sinks")
def test_without_redis_the_page_says_so(signalbox: Any, admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """It opens all the same; a program gets status 503."""
    with RedisServer() as server:
        conf.sync_redis().close()
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        server.kill()
        assert "The state cannot be read from Redis." in page(admin_client, PIPELINE)
        caplog.set_level(logging.CRITICAL, logger="django.request")
        answer = admin_client.get(f"{PIPELINE}?format=json")
    assert (answer.status_code, list(answer.json())) == (503, ["error"])


@pytest.mark.usefixtures("sinks")
def test_a_stream_key_of_another_type_is_an_error_on_the_page(
    admin_client: Client, redis_client: redis.Redis, keys: Keys
) -> None:
    redis_client.set(keys.stream("logs"), "text")
    assert "WRONGTYPE" in page(admin_client, PIPELINE)


def test_other_commands_do_not_look_for_a_table(db: None) -> None:
    """The model has no rows and no table; commands such as dumpdata work without them."""
    for options in ([], ["--all"]):
        written = io.StringIO()
        call_command("dumpdata", "realtime", "auth", *options, stdout=written)
        assert "auth.permission" in {row["model"] for row in json.loads(written.getvalue())}
