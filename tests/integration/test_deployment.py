"""What production is started with: docker-compose.yml, Dockerfile, Procfile, nginx, and the health checks they call."""

import asyncio
import contextlib
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from django.core.management import get_commands, load_command_class

from notifications import health
from realtime.embedded import server as embedded
from realtime.redis.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, STREAM, Recorder, append, worker_process, working
from tests.support.waiting import wait_until, wait_until_sync

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


def services() -> dict[str, str]:
    """The text of each service in docker-compose.yml."""
    section = re.search(r"^services:\n(.*?)^volumes:", COMPOSE, re.MULTILINE | re.DOTALL)
    assert section is not None
    parts = re.split(r"^  (\w+):\n", section[1], flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def commands() -> list[str]:
    """Every command line of ours that production runs."""
    found = list(PROCFILE.values())
    found += re.findall(r"^    command: (python .*)$", COMPOSE, re.MULTILINE)
    found += [
        " ".join(re.findall(r'"([^"]+)"', test)[1:]) for test in re.findall(r"test: (\[.CMD., .*)$", COMPOSE, re.M)
    ]
    dockerfile = (ROOT / "Dockerfile").read_text()
    found += [" ".join(re.findall(r'"([^"]+)"', command)) for command in re.findall(r"^CMD (.*)$", dockerfile, re.M)]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_of_production_exist(command: str) -> None:
    """Each is `python -m` a module of ours or a management command that is there, with arguments that it takes."""
    words = shlex.split(command.replace("$PORT", "8000"))
    assert words[0] == "python"
    if words[1] == "-m":
        assert (ROOT / Path(*words[2].split("."))).with_suffix(".py").exists()
        return
    assert words[1] == "manage.py"
    name = words[2]
    command_class = load_command_class(get_commands()[name], name)
    command_class.create_parser("manage.py", name).parse_args(words[3:])


def test_every_service_is_there_and_looked_after() -> None:
    """All have health checks but the migration, which runs once, first."""
    found = services()
    assert list(found) == ["postgres", "redis", "migrate", "web", "run_bot_subscriber", "run_task_worker", "proxy"]
    for name, text in found.items():
        assert ("healthcheck:" in text) == (name != "migrate"), name
        assert "restart:" in text or "<<: *app" in text, name
    for name in ("web", "run_bot_subscriber", "run_task_worker"):
        assert re.search(r"migrate:\n +condition: service_completed_successfully", found[name])


def test_redis_keeps_its_data_and_evicts_nothing() -> None:
    """Streams are work that must not be lost."""
    for words in ("--appendonly yes", "--maxmemory-policy noeviction", "redis:/data"):
        assert words in services()["redis"]


def test_secrets_come_from_the_environment_only() -> None:
    """Whatever must differ from site to site is asked for, and no value for it is in the files."""
    for name in ("SECRET_KEY", "ALLOWED_HOSTS", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "TLS_DIR"):
        assert f"${{{name}:?" in COMPOSE
        assert not re.search(rf"\${{{name}(:-|}})", COMPOSE)


def test_redis_lets_nobody_in_without_the_password(tmp_path: Path) -> None:
    """Started as compose starts it: the URL that the site's processes are given is let in, and nobody else."""
    text = re.sub(r"\$\{REDIS_PASSWORD:\?[^}]*\}", "hush", COMPOSE)
    found = re.search(r"command: >-\n +redis-server (.*)\n +(.*)\n", text)
    assert found is not None
    path = tmp_path / "r.sock"
    arguments = [
        *shlex.split(f"{found[1]} {found[2]}"),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--dir",
        str(tmp_path),
    ]
    (url,) = re.findall(r"REDIS_URL: (\S+)", text)
    password = urlsplit(url).password
    process = subprocess.Popen([str(embedded.binary()), *arguments], stdout=subprocess.DEVNULL)
    try:
        wait_until_sync(path.exists, seconds=90)
        with redis.Redis(unix_socket_path=str(path)) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.publish("notification", "{}")
        with redis.Redis(unix_socket_path=str(path), password=password) as site:
            assert site.publish("notification", "{}") == 0
    finally:
        process.kill()
        process.wait()
    assert f"REDISCLI_AUTH: {password}" in text


def test_only_the_proxy_is_reached_from_outside() -> None:
    """No other service publishes a port."""
    assert [name for name, text in services().items() if "ports:" in text] == ["proxy"]


def test_image_holds_what_it_needs_and_nothing_else() -> None:
    """What the Dockerfile copies is let through .dockerignore, and exists; the process is not root."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set(re.findall(r"^COPY ([\w./-]+) ", dockerfile, re.MULTILINE))
    assert copied == let_through
    assert all((ROOT / path).exists() for path in copied)
    assert re.search(r"^USER signalbox$", dockerfile, re.MULTILINE)


def test_proxy_passes_websockets_on_and_serves_static_files() -> None:
    """The paths in nginx.conf are those of the project and of the Dockerfile."""
    proxy = (ROOT / "deploy/nginx.conf").read_text()
    assert "location /ws/ {" in proxy and "location /static/ {" in proxy
    assert "proxy_set_header Upgrade $http_upgrade;" in proxy
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in proxy
    assert "/var/static /srv/static" in (ROOT / "Dockerfile").read_text() and "alias /srv/static/;" in proxy


# Health -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def web_server(status: int) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """A web server that answers everything with `status`: its port, and the headers of the requests it got."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append({"path": self.path, **dict(self.headers)})
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, seen
        finally:
            server.shutdown()
            thread.join()


def test_web_is_well_when_it_answers_as_to_the_proxy(settings: Any) -> None:
    """It is asked for a page of the first host name, as if by HTTPS: a site in production answers nothing else."""
    settings.ALLOWED_HOSTS = [".signalbox.example", "other.example"]
    with web_server(200) as (port, seen):
        health.check_web(port)
    assert (seen[0]["path"], seen[0]["Host"], seen[0]["X-Forwarded-Proto"]) == ("/", "signalbox.example", "https")


def test_web_is_unwell_when_it_answers_with_an_error() -> None:
    """500 is no answer, and neither is silence."""
    with web_server(500) as (port, _), pytest.raises(health.Unwell, match="answers 500"):
        health.check_web(port)
    with pytest.raises(OSError, match="refused"):
        health.check_web(port)


@pytest.mark.usefixtures("signalbox")
def test_bot_is_unwell_without_a_lease(redis_client: redis.Redis, keys: Keys) -> None:
    """In each group that it is in; that it has read lately, or that another host is well, does not help."""
    stream = keys.stream("notifications")
    for group in ("relay", "bot"):
        redis_client.xgroup_create(stream, group, id="0", mkstream=True)
    with pytest.raises(health.Unwell, match=r"no consumer group .* has a consumer of this host"):
        health.check_bot("here")
    for group, consumer in (("relay", "here-1-aaaa"), ("bot", "here-1-aaaa"), ("bot", "there-1-bbbb")):
        redis_client.xreadgroup(group, consumer, {stream: ">"})
    for group, consumer in (("relay", "here-1-aaaa"), ("bot", "there-1-bbbb")):
        redis_client.set(keys.worker_lease("notifications", group, consumer), "session", ex=60)
    with pytest.raises(health.Unwell, match="the worker of the group bot has not renewed its lease"):
        health.check_bot("here")
    for host in ("here-2", "there-here"):
        redis_client.xreadgroup("bot", f"{host}-1-aaaa", {stream: ">"})
        redis_client.set(keys.worker_lease("notifications", "bot", f"{host}-1-aaaa"), "session", ex=60)
    with pytest.raises(health.Unwell, match="the worker of the group bot has not renewed its lease"):
        health.check_bot("here")
    redis_client.xreadgroup("bot", "here-2-cccc", {stream: ">"})
    redis_client.set(keys.worker_lease("notifications", "bot", "here-2-cccc"), "session", ex=60)
    health.check_bot("here")


@pytest.mark.usefixtures("signalbox")
async def test_a_busy_bot_is_well(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """All its slots are taken for several leases, so that it reads nothing."""
    gate = asyncio.Event()
    handler = Recorder(gate=gate)
    append(redis_client, keys, "one")
    async with working(
        redis_server.url, keys, handler, consumer="here-1-aaaa", lease_seconds=1.0, block_seconds=0.1
    ) as worker:
        await wait_until(lambda: handler.running_count == 1)
        await wait_until(lambda: idle_seconds(redis_client, keys) > 2.5, seconds=90)
        await wait_until(lambda: is_well("here"))
        gate.set()
        await wait_until(lambda: worker.statistics().handled_count == 1)


def idle_seconds(client: redis.Redis, keys: Keys) -> float:
    """How long ago the only worker has read."""
    (consumer,) = client.xinfo_consumers(keys.stream(STREAM), GROUP)
    return float(consumer["idle"]) / 1000


def is_well(host: str) -> bool:
    """A machine that stands still for longer than a lease may be unwell for a moment."""
    try:
        health.check_bot(host)
    except health.Unwell:
        return False
    return True


@pytest.mark.usefixtures("signalbox")
def test_a_dead_bot_is_not_well(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """Killed with an entry in hand: soon after its lease."""
    append(redis_client, keys, "one")
    with worker_process(redis_server.url, keys, "hang") as process:
        wait_until_sync(lambda: redis_client.exists(keys.stream(STREAM)) and is_well(socket.gethostname()), seconds=90)
        process.kill()
        process.wait()
        wait_until_sync(lambda: not is_well(socket.gethostname()))
        with pytest.raises(health.Unwell, match=f"the worker of the group {GROUP} has not renewed its lease"):
            health.check_bot()


@pytest.mark.usefixtures("signalbox")
def test_a_task_worker_is_unwell_without_a_lease(redis_client: redis.Redis, keys: Keys) -> None:
    """On each queue that it reads. Queues of others, and queues that were deleted, are not asked about."""
    queues = [keys.task_queue(name) for name in ("default", "mail", "other")]
    redis_client.sadd(keys.streams(), *queues, keys.task_queue("deleted"), keys.stream(STREAM))
    for queue in queues:
        redis_client.xgroup_create(queue, "workers", id="0", mkstream=True)
        redis_client.expire(queue, 60)
    with pytest.raises(health.Unwell, match="no task queue has a worker of this host"):
        health.check_tasks("here")
    for name, consumer in (("default", "here-1-aaaa"), ("mail", "here-1-aaaa"), ("other", "there-1-bbbb")):
        redis_client.xreadgroup("workers", consumer, {keys.task_queue(name): ">"})
    redis_client.set(keys.worker_lease("tasks:default", "workers", "here-1-aaaa"), "session", ex=60)
    with pytest.raises(health.Unwell, match="the worker of the task queue mail has not renewed its lease"):
        health.check_tasks("here")
    redis_client.set(keys.worker_lease("tasks:mail", "workers", "here-1-aaaa"), "session", ex=60)
    health.check_tasks("here")
    redis_client.set(keys.standstill("here-1-aaaa"), "project/demo/tasks.py:40", ex=60)
    with pytest.raises(health.Unwell, match=r"the event loop of here-1-aaaa is blocked at project/demo/tasks\.py:40"):
        health.check_tasks("here")


@pytest.mark.parametrize(("words", "said"), [((), "required: process"), (("worker",), "invalid choice: 'worker'")])
def test_a_health_check_of_nothing_says_what_there_is(words: tuple[str, ...], said: str) -> None:
    """One line of usage and one of error."""
    command = [sys.executable, "-m", "notifications.health", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
