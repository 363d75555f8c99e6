"""Publishing on topics, from a shell: what is published, what is said of it, what is refused."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec
import pytest
import redis
from django.core.management import CommandError, call_command

from project.settings import BASE_DIR
from realtime.broker.publication import Publication
from realtime.publisher import DATA_LIMIT_BYTES
from realtime.redis import clients
from tests.integration.hearing import Ear, layer
from tests.support.messages import envelope
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]


def run(*arguments: str, stderr: io.StringIO | None = None) -> str:
    out = io.StringIO()
    call_command("publish", *arguments, stdout=out, stderr=stderr or io.StringIO())
    return out.getvalue()


def test_the_command_publishes_once(kept: Callable[[str], list[Publication]], ear: Callable[[str], Ear]) -> None:
    """It prints the offset, and how many server processes received it. If none did, it says what to do."""
    hint = io.StringIO()
    said = run("news.42", '{"message": "hello"}', stderr=hint)
    assert said == "news.42: 1 published up to offset 1, received by 0 server processes\n"
    assert "Open a page that subscribes to it, then publish again." in hint.getvalue()
    ear("news.42")
    hint = io.StringIO()
    said = run("news.42", '"zwölf"', stderr=hint)
    assert said == "news.42: 1 published up to offset 2, received by 1 server process\n"
    assert hint.getvalue() == ""
    assert [json.loads(each.frame)["data"] for each in kept("news.42")] == [{"message": "hello"}, "zwölf"]


@pytest.mark.parametrize("data", ['{"a": 1}', "null", "7", '"Hello"', "[]", '{"id": 7, "message": "Hello"}'])
def test_a_user_is_published_notifications_only(kept: Callable[[str], list[Publication]], data: str) -> None:
    """Other data would show a toast "undefined"; the error says what to do instead."""
    with pytest.raises(CommandError, match=r"on user\.4: it is not a notification .*services\.notify"):
        run("user.4", data)
    assert kept("user.4") == []


def test_a_notification_is_published(kept: Callable[[str], list[Publication]]) -> None:
    """In the form in which the relay publishes it; not with a URL that is unsafe in a link."""
    assert run("user.4", msgspec.json.encode(envelope()).decode()).startswith("user.4: 1 published")
    assert len(kept("user.4")) == 1
    with pytest.raises(CommandError, match="its url is neither"):
        run("user.4", msgspec.json.encode(envelope(url="javascript:alert(1)")).decode())


def test_the_command_repeats(ear: Callable[[str], Ear]) -> None:
    """As fast as it goes."""
    listener = ear("news.today")
    assert run("news.today", "1", "--repeat", "1200").startswith("news.today: 1200 published up to offset 1200")
    assert [each.position.offset for each in listener.hear(1_200)] == list(range(1, 1_201))


def test_the_command_keeps_a_rate() -> None:
    """Never faster than asked; a rate beyond what single calls can do is kept by sending several at once."""
    for repeat, rate in ((5, 20.0), (2_000, 5_000.0)):
        began = time.monotonic()
        run("news.today", "1", "--repeat", str(repeat), "--rate", str(rate))
        elapsed_seconds = time.monotonic() - began
        assert (repeat - 1) / rate <= elapsed_seconds < (repeat - 1) / rate + 60.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["news.today", "{'a': 1}"], "cannot be published"),
        (["news.today", "\udcff"], "cannot be published"),
        (["news.today", f'"{"x" * DATA_LIMIT_BYTES}"'], "the limit is 65536"),
        (["weather.today", "1"], "no app declares"),
        (["news.today", "1", "--repeat", "0"], "--repeat must be at least 1"),
        (["news.today", "1", "--rate", "-1"], "--rate at least 0"),
        (["news.today", "1", "--rate", "nan"], "--rate at least 0"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], message: str, redis_client: redis.Redis) -> None:
    """And publishes nothing."""
    with pytest.raises(CommandError, match=message):
        run(*arguments)
    assert not redis_client.exists(layer().keys.topic_position("news.today"))


def test_the_command_says_that_redis_is_away(own_redis: RedisServer) -> None:
    """With how many had been published before."""
    own_redis.kill()
    with pytest.raises(CommandError, match=r"failed \(ConnectionError.*published before that: 0\)"):
        run("news.today", "1", "--repeat", "3")


def test_the_command_ends_with_a_status(redis_server: RedisServer) -> None:
    """0 with a line on stdout, and a hint if nobody received it; 1 with a line on stderr."""
    environment = {"REDIS_URL": redis_server.url, "PATH": "", "DATABASE_URL": "sqlite://:memory:"}

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", "publish", *arguments]
        return subprocess.run(command, cwd=BASE_DIR, env=environment, capture_output=True, text=True, check=False)

    done = start("news.shell", "1")
    with clients.publisher(redis_server.url) as client:
        for key in client.scan_iter(match="*{news.shell}*"):
            client.delete(key)
    assert done.returncode == 0
    assert done.stdout.startswith("news.shell: 1 published up to offset ")
    assert done.stderr.startswith("news.shell: no client is connected that subscribes to this topic. Open a page")
    refused = start("news.shell", "{")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("CommandError: this cannot be published")
