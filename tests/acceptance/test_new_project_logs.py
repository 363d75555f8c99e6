"""A new project turns its log records into files, with exactly the code of docs/how-to/turn-logs-into-files.md."""

import gzip
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.acceptance.new_project import COMMANDS, PASSWORD, PRODUCTION, SECONDS, Project, is_serving
from tests.acceptance.site import free_port
from tests.support.howto import blocks_of, commands_of
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

PAGE = "how-to/turn-logs-into-files.md"
COMMANDS_OF_PAGE = commands_of(PAGE)
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


@pytest.fixture
def project(tried_out: Project) -> Project:
    """A new project with all code blocks of the page in their files."""
    for block in blocks_of(PAGE):
        block.put_into(tried_out.directory)
    return tried_out


@pytest.fixture
def browser(project: Project) -> Iterator[httpx.Client]:
    """A client of the running web server; nobody is signed in."""
    url = f"http://127.0.0.1:{free_port()}"
    (line,) = COMMANDS[PRODUCTION]
    with project.running(line, "--port", url.rpartition(":")[2]) as web:
        web.wait_until(lambda: is_serving(f"{url}/admin/login/"))
        with httpx.Client(base_url=url, follow_redirects=True, timeout=SECONDS) as client:
            yield client


def send_form(client: httpx.Client, page: httpx.Response, **fields: str) -> httpx.Response:
    """Fill in the form in the main part of a page: the bell has forms, too."""
    (token,) = TOKEN.findall(page.text.partition("<main")[2])
    return client.post(page.url, data={"csrfmiddlewaretoken": token, **fields}, headers={"Referer": str(page.url)})


def redis_command(project: Project, name: str, **changes: str) -> Any:
    """
    Send a `redis-cli` command of the page by a client, because redis-cli may be missing. Returns the answer.

    `changes` replace words in its last argument.
    """
    (line,) = COMMANDS_OF_PAGE[name]
    program, option, socket, *words = shlex.split(line)
    assert (program, option) == ("redis-cli", "-s")
    # As a shell does: the path of the socket is the output of commands.
    done = subprocess.run(
        ["/bin/sh", "-c", f'printf %s "{socket}"'],
        cwd=project.directory,
        env={**project.environment, "PATH": f"{project.python.parent}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    with redis.Redis(unix_socket_path=done.stdout) as client:
        for old, new in changes.items():
            words[-1] = words[-1].replace(old, new)
        return client.execute_command(*words)


def receipt(project: Project, order: str) -> Any:
    """Wait for the file of an order, and return its content."""
    path = project.directory / f"var/files/receipts/{order}.json.gz"
    wait_until_sync(path.exists, seconds=SECONDS)
    return json.loads(gzip.decompress(path.read_bytes()))


def archived(project: Project) -> list[dict[str, Any]]:
    """The records of all archive files, in the order of their names."""
    files: list[Path] = sorted((project.directory / "var/archive").glob("*/*.ndjson.gz"))
    return [json.loads(line) for path in files for line in gzip.decompress(path.read_bytes()).splitlines()]


def waiting(project: Project) -> dict[str, tuple[Any, ...]]:
    """Sink → what `stream_status` shows of it."""
    (line,) = COMMANDS_OF_PAGE["how many records wait"]
    (stream,) = json.loads(project.run(line, "--json"))["streams"]
    columns = ("lag", "pending", "delayed", "dead", "oldest_seconds")
    return {group["name"]: tuple(group[column] for column in columns) for group in stream["groups"]}


def test_an_order_becomes_a_receipt_and_a_line_of_the_archive(project: Project, browser: httpx.Client) -> None:
    """Orders are logged by the site, by a program that publishes, and by one that appends to the stream."""
    (work,) = COMMANDS_OF_PAGE["a worker of all sinks: one or more, beside the web server"]
    with project.running(work) as worker:
        worker.wait_until(lambda: "Orders and Archive are running" in worker.log)
        form = send_form(browser, browser.get("/order/"), username="alice", password=PASSWORD)
        assert send_form(browser, form, order="A7").text == "Thank you."
        made = receipt(project, "A7")
        assert made.keys() == {"order", "customer", "at"}
        assert (made["order"], made["customer"]) == ("A7", "alice")
    # A worker that is stopped writes its files first.
    (record,) = archived(project)
    assert record == {
        **{"level": "INFO", "logger": "shop", "message": "Order A7", "queue": "orders", "timestamp": made["at"]},
        "task": {"customer": "alice", "order": "A7"},
    }

    (listen,) = COMMANDS_OF_PAGE["a worker that also appends published records"]
    with project.running(listen) as worker:
        worker.wait_until(lambda: "listening for log records on the Redis channel orders" in worker.log)
        assert redis_command(project, "publish from another program") == 1
        assert receipt(project, "A8")["customer"] == "alice"
        redis_command(project, "append from another program")
        assert receipt(project, "A9")["at"] == "2026-01-31T12:00:00Z"
        wait_until_sync(lambda: len(archived(project)) == 3, seconds=SECONDS)
        nothing = (0, 0, 0, 0, None)
        wait_until_sync(lambda: waiting(project) == {"Orders": nothing, "Archive": nothing}, seconds=SECONDS)
    assert {record["message"] for record in archived(project)} == {"Order A7", "Order A8", "Order A9"}

    with project.running(listen, may_log_tracebacks=True) as worker:
        worker.wait_until(lambda: "listening for log records on the Redis channel orders" in worker.log)
        # A customer without an account: the record waits as a dead letter until there is one.
        assert redis_command(project, "publish from another program", alice="bob", A8="B1") == 1
        wait_until_sync(lambda: waiting(project)["Orders"] == (0, 0, 0, 1, None), seconds=SECONDS)
        code = "from django.contrib.auth.models import User; User.objects.create_user('bob')"
        project.run(f'python manage.py shell -c "{code}"')
        (replay,) = COMMANDS_OF_PAGE["when the cause is mended"]
        assert "1 replayed, 0 left" in project.run(replay)
        assert receipt(project, "B1")["customer"] == "bob"
