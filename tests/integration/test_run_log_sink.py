"""`manage.py run_log_sink` in this process: what it prints and logs, and what it refuses. Signals: tests/acceptance."""

import asyncio
import io
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command, load_command_class

from realtime.conf import get_settings
from realtime.logs import LogRecord, RedisStreamHandler
from realtime.logs.record import encode_record
from realtime.redis.keys import Keys
from realtime.sinks import ContentSink, NdjsonSink, Sink, base
from realtime.sinks.service import SinkService
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]


@pytest.fixture(autouse=True)
def _no_other_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a test declares are the only ones, and are forgotten after it."""
    monkeypatch.setattr(base, "_sinks", [])


@pytest.fixture(autouse=True)
def _no_stream_left(redis_client: redis.Redis, keys: Keys) -> Iterator[None]:
    yield
    for name in redis_client.scan_iter(match=f"*{keys.prefix}logs*"):
        redis_client.delete(name)


@pytest.fixture(autouse=True)
def _signals_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("run_log_sink", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def refusal(*arguments: str) -> str:
    """The error of a command that ends with 1."""
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def archive(target: Any, **members: Any) -> type[Sink]:
    """Declare a sink that writes to `target`."""
    return type("Archive", (NdjsonSink,), {"url": target, **members})


def declare_two(directory: Path) -> None:
    class Orders(ContentSink):
        url = directory / "orders"
        queues = ("orders", "returns")
        kinds = ("receipts",)
        storage_options = {"secret": "of nobody's business"}  # noqa: RUF012

        def key(self, record: LogRecord) -> str:
            return record.message

        def transform(self, record: LogRecord, fetched: Any) -> dict[str, Any]:
            return {"receipts": record.task}

    class Archive(NdjsonSink):
        url = "s3://archive/logs"
        stream = "audit"


def test_help_teaches() -> None:
    """It says what the command does, how it ends, and what to type."""
    text = load_command_class("realtime", "run_log_sink").create_parser("manage.py", "run_log_sink").format_help()
    for needed in ("Redis stream", "sinks.py", "SIGTERM", "second Ctrl-C", "--list --json", "stream_status"):
        assert needed in text
    assert max(map(len, text.splitlines())) <= 120


def test_sinks_are_listed(tmp_path: Path) -> None:
    """In order of declaration, or as one JSON object; never with secrets."""
    declare_two(tmp_path)
    assert run("--list").splitlines() == [
        f"Orders: stream logs, queues orders and returns, to {tmp_path}/orders",
        "Archive: stream audit to s3://archive/logs",
    ]
    orders = {"name": "Orders", "stream": "logs", "queues": ["orders", "returns"], "url": f"{tmp_path}/orders"}
    other = {"name": "Archive", "stream": "audit", "queues": [], "url": "s3://archive/logs"}
    assert json.loads(run("--list", "--json")) == {"sinks": [orders, other]}
    assert json.loads(run("Archive", "--list", "--json")) == {"sinks": [other]}
    assert run("--list", "Archive") == "Archive: stream audit to s3://archive/logs\n"


def test_json_is_for_the_list(tmp_path: Path) -> None:
    """Without --list, the command runs until a signal: a program that wants the list would wait for ever."""
    declare_two(tmp_path)
    assert refusal("--json") == "--json is for --list: add it"


@pytest.mark.parametrize("arguments", [(), ("--list",)])
def test_an_unknown_name_is_refused_with_those_that_exist(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Also if another name is known."""
    declare_two(tmp_path)
    assert refusal("Order", *arguments) == "there is no sink 'Order'; sinks: Archive, Orders"
    assert refusal("Archive", "orders", *arguments) == "there is no sink 'orders'; sinks: Archive, Orders"
    assert refusal("b", "Orders", "a", *arguments) == "there is no sink 'b' and no sink 'a'; sinks: Archive, Orders"


@pytest.mark.parametrize("arguments", [(), ("--list",), ("Games",)])
def test_without_sinks_it_says_where_to_declare_one(arguments: tuple[str, ...]) -> None:
    assert refusal(*arguments) == "no app has a sink: declare one in the sinks.py of an app"


@pytest.mark.parametrize("channel", ["", " ", "two words", "orders.*", "order[s]", "order?"])
def test_a_channel_that_nobody_publishes_on_is_refused(tmp_path: Path, channel: str) -> None:
    """Redis does not refuse it: the command would wait for ever."""
    archive(tmp_path)
    with pytest.raises(CommandError, match=r"argument --listen: .* is not the name of a channel"):
        run("--listen", channel)


def test_the_channel_of_the_ingress_is_refused(tmp_path: Path) -> None:
    """What is published there are requests for notifications, not log records."""
    archive(tmp_path)
    with pytest.raises(CommandError, match="notification is the channel of the ingress"):
        run("--listen", "notification")


# A storage that can never work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "/files", "/files/of/today"])
def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path, below: str) -> None:
    """At once, instead of trying again for ever. The file stays as it is."""
    (tmp_path / "files").write_text("mine")
    archive(f"{tmp_path}/files{below}")
    said = refusal()
    assert said.startswith(f"sink Archive: no file can be written in {tmp_path}/files{below}: ")
    assert (tmp_path / "files").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="/sys is of Linux")
def test_a_place_where_nobody_may_write_is_refused() -> None:
    archive("/sys/signalbox/files")
    assert refusal().startswith("sink Archive: no file can be written in /sys/signalbox/files: ")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s4://bucket/games", "s4"),
        ("", "it has no url"),
        (None, "it has no url"),
        ("file://var/games", "write file:///var/games"),
    ],
)
def test_a_url_that_means_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: Any, message: str
) -> None:
    """Otherwise, "" would be the working directory, and None, from a variable that is not set, a directory `None`."""
    monkeypatch.chdir(tmp_path)
    archive(url)
    said = refusal()
    assert said.startswith("sink Archive: ")
    assert message in said
    assert not [*tmp_path.iterdir()]


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of the protocol, or fsspec itself with the command that installs it."""
    archive("s3://bucket/games")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    said = refusal()
    assert said.startswith("sink Archive: s3://bucket/games cannot be used: ")
    assert "s3fs" in said
    for name in ("fsspec", "fsspec.core"):
        monkeypatch.setitem(sys.modules, name, None)
    said = refusal()
    assert "sink Archive: fsspec" in said
    assert "pip install" in said
    assert "[logs]" in said


# Ready ----------------------------------------------------------------------------------------------------------------


async def test_the_log_says_when_it_is_ready(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The command itself prints nothing: the project must log INFO."""
    caplog.set_level(logging.INFO, "realtime.sinks")
    for sinks, running in (
        ([archive(tmp_path, name="One")], "One is running"),
        ([archive(tmp_path, name="A"), archive(tmp_path, name="B")], "A and B are running"),
    ):
        service = SinkService(sinks)
        task = asyncio.create_task(service.run())
        await service.ready.wait()
        assert f"{running}, consumer {service.consumer}" in caplog.messages
        service.stop()
        await task


async def test_spilled_records_are_sent_also_if_nothing_is_logged(
    tmp_path: Path, redis_client: redis.Redis, keys: Keys
) -> None:
    """The process that spilled them may never run again."""
    spilled = tmp_path / "spilled"
    spilled.mkdir()
    body = encode_record(logging.makeLogRecord({"name": "shop", "msg": "an order"}))
    (spilled / "1700000000000000001-1-aaaaaaaa.ndjson").write_bytes(body + b"\n")
    handler = RedisStreamHandler(spill_directory=spilled, redis_url=get_settings().redis_url, key_prefix=keys.prefix)
    other = RedisStreamHandler(redis_url=get_settings().redis_url, key_prefix=keys.prefix)
    service = SinkService([archive(tmp_path / "files")])
    task = asyncio.create_task(service.run())
    try:
        await service.ready.wait()
        await wait_until(lambda: not [*spilled.iterdir()])
        assert redis_client.xinfo_stream(keys.stream("logs"))["entries-added"] == 1
        assert handler._sender.statistics()["replayed"] == 1
        # A handler without a directory has nothing to send.
        assert other._sender.thread_ident is None
    finally:
        service.stop()
        await task
        handler.close()
        other.close()


async def test_a_sink_that_cannot_run_does_not_hinder_a_process_without_it(tmp_path: Path) -> None:
    """The other sinks can be run by name."""
    good, bad = archive(tmp_path, name="Good"), archive("s4://bucket", name="Bad")
    with pytest.raises(ImproperlyConfigured, match="sink Bad: "):
        await SinkService([good, bad]).run()
    service = SinkService([good])
    task = asyncio.create_task(service.run())
    await service.ready.wait()
    service.stop()
    await task
