"""What an operator does with streams: look how far they are, replay and throw away what was given up."""

import json
from io import StringIO
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

from realtime.exceptions import PermanentError
from realtime.redis.keys import Keys
from realtime.sinks import NdjsonSink, base
from realtime.streams.dead_letters import find, replay
from realtime.streams.keys import GroupKeys
from realtime.streams.status import finished_until
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, STREAM, Recorder, append, dead_letters, left_count, working
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.database_independent, pytest.mark.usefixtures("signalbox")]


def run(name: str, *arguments: str) -> str:
    output = StringIO()
    call_command(name, *arguments, stdout=output)
    return output.getvalue().strip()


def run_json(name: str, *arguments: str) -> Any:
    return json.loads(run(name, *arguments, "--json"))


def reject(name: str) -> None:
    if name.startswith("bad"):
        raise PermanentError("never")


@pytest.fixture
async def letters(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> list[str]:
    """A stream with three dead letters, bad0 to bad2; their own ids."""
    append(redis_client, keys, "bad0", "good", "bad1", "bad2")
    async with working(redis_server.url, keys, Recorder(fail=reject), groups=("slow",)) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 3 and worker.statistics().handled_count == 1)
    return [id.decode() for id, _ in redis_client.xrange(keys.dead_letters(STREAM, GROUP))]


def test_status_tells_of_each_group(letters: list[str], redis_client: redis.Redis, keys: Keys) -> None:
    """One group is done but for its dead letters, the other has read nothing."""
    (stream,) = run_json("stream_status")["streams"]
    assert (stream["key"], stream["length"]) == (keys.stream(STREAM), 4)
    slow, workers = stream["groups"]
    assert 0 <= slow.pop("oldest_seconds") < 60
    none = {"pending": 0, "delayed": 0, "standing": 0, "consumers": 0, "workers": 0, "members": []}
    assert slow == {**none, "name": "slow", "lag": 4, "dead": 0, "finished": 0}
    assert workers == {
        **none,
        **{"name": GROUP, "lag": 0, "dead": 3, "finished": 1},
        "oldest_seconds": None,
    }
    header, _, *rows = run("stream_status", STREAM, "--group", GROUP).splitlines()
    assert header.split()[:4] == ["stream", "length", "group", "lag"]
    assert [row.split() for row in rows] == [[keys.stream(STREAM), "4", GROUP, "0", "0", "0", "0", "3", "-", "0", "0"]]


def test_status_says_what_to_start_before_any_worker_has_run(
    redis_client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is counted, and the command is named if the stream is that of a sink."""
    monkeypatch.setattr(base, "_sinks", [])
    with pytest.raises(CommandError, match=f"the stream {keys.stream(STREAM)} does not exist; known streams: "):
        run("stream_status", STREAM)
    append(redis_client, keys, "one")
    waits = f"1 entry waits on the stream {keys.stream(STREAM)}, and no worker has run yet: "
    with pytest.raises(CommandError, match=f"^{waits}start one$"):
        run("stream_status", STREAM)
    type("Archive", (NdjsonSink,), {"url": "memory://files", "stream": STREAM})
    with pytest.raises(CommandError, match=f"^{waits}start manage.py run_log_sink$"):
        run("stream_status", STREAM)
    append(redis_client, keys, *map(str, range(1_000)))
    with pytest.raises(CommandError, match=r"^1,001 entries wait on the stream "):
        run("stream_status", STREAM)


async def test_status_counts_what_waits_for_its_next_attempt(
    redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """It is unfinished, so the oldest entry is that one."""

    def fail(name: str) -> None:
        raise ValueError(name)

    append(redis_client, keys, "one")
    async with working(redis_server.url, keys, Recorder(fail=fail), max_attempts=10_000) as worker:
        await wait_until(lambda: worker.statistics().retried_count > 3)
    (stream,) = run_json("stream_status")["streams"]
    assert (stream["groups"][0]["delayed"], stream["groups"][0]["pending"]) == (1, 0)
    assert stream["groups"][0]["oldest_seconds"] > 0


def test_status_counts_keys_that_nothing_leads_out(letters: list[str], redis_client: redis.Redis, keys: Keys) -> None:
    """Keys that are not due and that nobody holds, or whose holder has no lease. A key that is due is not stuck."""
    group = GroupKeys(keys.stream(STREAM), GROUP)
    redis_client.hset(
        group.owners, mapping={"waits": "+", "stands": "+", "of the dead": "gone 1-0", "held": "here 1-0+"}
    )
    redis_client.zadd(group.due, {"waits": 1})
    redis_client.set(group.worker_lease("here"), "token", ex=60)
    (stream,) = run_json("stream_status")["streams"]
    assert [each["standing"] for each in stream["groups"]] == [0, 2]
    redis_client.delete(group.owners, group.due)


async def test_status_counts_the_workers_that_are_alive(
    letters: list[str], redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """A consumer whose lease has expired is one no more."""
    group = GroupKeys(keys.stream(STREAM), GROUP)
    redis_client.xgroup_createconsumer(group.stream, GROUP, "gone")
    async with working(redis_server.url, keys, Recorder()) as worker:
        await worker.wait_ready()
        (stream,) = run_json("stream_status")["streams"]
    assert [(each["consumers"], each["workers"]) for each in stream["groups"]] == [(0, 0), (2, 1)]


async def test_until_when_a_group_has_finished_everything(
    letters: list[str], redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """
    Its oldest that is not may be on the stream, in flight or parked; a dead letter is finished.

    A group that is not there begins with all that is on the stream.
    """
    stream = keys.stream(STREAM)
    first = int(redis_client.xrange(stream, count=1)[0][0].partition(b"-")[0]) / 1000
    assert finished_until(redis_client, GroupKeys(stream, "slow")) == first
    assert finished_until(redis_client, GroupKeys(stream, GROUP)) is None
    assert finished_until(redis_client, GroupKeys(stream, "none")) == first
    assert finished_until(redis_client, GroupKeys(keys.stream("none"), GROUP)) is None
    redis_client.xreadgroup("slow", "somebody", {stream: ">"})
    assert finished_until(redis_client, GroupKeys(stream, "slow")) == first
    run("replay_dead_letters", "--group", GROUP)
    assert finished_until(redis_client, GroupKeys(stream, GROUP)) == first
    redis_client.set(keys.stream("other"), "no stream", ex=60)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        finished_until(redis_client, GroupKeys(keys.stream("other"), GROUP))


def test_ids_that_another_program_has_made_up_say_no_time(redis_client: redis.Redis, keys: Keys) -> None:
    """From the far future, up to the last id that there can be: what has one counts as new, unread or in hand."""
    stream, group_keys = keys.stream(STREAM), GroupKeys(keys.stream(STREAM), GROUP)
    redis_client.sadd(keys.streams(), stream)
    redis_client.xgroup_create(stream, GROUP, id="0", mkstream=True)
    for id in ("300000000000000-0", f"{2**64 - 1}-{2**64 - 1}"):
        redis_client.xadd(stream, {"x": "y"}, id=id)
        for _ in range(2):
            before = redis_client.time()[0]
            assert before <= (finished_until(redis_client, group_keys) or 0) <= redis_client.time()[0] + 1
            (status,) = run_json("stream_status")["streams"]
            assert status["groups"][0]["oldest_seconds"] == 0
            redis_client.xreadgroup(GROUP, "somebody", {stream: ">"})
        redis_client.xack(stream, GROUP, id)
        assert finished_until(redis_client, group_keys) is None


def test_before_there_is_any_worker_the_commands_say_so(redis_client: redis.Redis) -> None:
    """A new site is not an error."""
    assert "no stream has had a worker" in run("stream_status")
    assert run_json("stream_status") == {"streams": []}
    assert run_json("replay_dead_letters") == {"replayed_count": 0, "groups": []}
    with pytest.raises(CommandError, match="no dead letter has the id 1-0"):
        run("replay_dead_letters", "--id", "1-0")


async def test_a_replayed_entry_is_handled_by_its_group_alone(
    letters: list[str], redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """With its fields, from its first attempt on, and it is no dead letter any more."""
    assert run("replay_dead_letters", "--group", GROUP) == f"{keys.stream(STREAM)}, {GROUP}: 3 replayed, 0 left"
    assert dead_letters(redis_client, keys) == []
    assert left_count(redis_client, keys) == 3
    assert run_json("replay_dead_letters")["replayed_count"] == 0
    handler = Recorder()
    async with working(redis_server.url, keys, handler) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 3)
    assert handler.attempts == {"bad0": [1], "bad1": [1], "bad2": [1]}
    assert redis_client.xlen(keys.stream(STREAM)) == 4
    assert left_count(redis_client, keys) == 0


async def test_a_replayed_entry_that_fails_again_is_a_dead_letter_again(
    letters: list[str], redis_server: RedisServer, redis_client: redis.Redis, keys: Keys
) -> None:
    """It keeps the id of its entry and the time of its first attempt."""
    before = {letter[b"name"]: letter for letter in dead_letters(redis_client, keys)}
    run("replay_dead_letters")
    async with working(redis_server.url, keys, Recorder(fail=reject)) as worker:
        await wait_until(lambda: worker.statistics().dead_count == 3)
    assert {letter[b"name"]: letter for letter in dead_letters(redis_client, keys)} == before


@pytest.mark.parametrize(
    ("arguments", "names"),
    [(["--limit", "2"], ["bad2"]), (["--older-than", "1h"], ["bad0", "bad1", "bad2"]), (["--older-than", "0s"], [])],
)
def test_filters_of_both_commands(
    letters: list[str], redis_client: redis.Redis, keys: Keys, arguments: list[str], names: list[str]
) -> None:
    """The oldest first; what is not meant stays."""
    done = run_json("purge_dead_letters", *arguments)
    assert done == {
        "purged_count": 3 - len(names),
        "groups": [
            {"stream": keys.stream(STREAM), "group": "slow", "purged_count": 0, "left_count": 0},
            {"stream": keys.stream(STREAM), "group": GROUP, "purged_count": 3 - len(names), "left_count": len(names)},
        ],
    }
    assert [letter[b"name"].decode() for letter in dead_letters(redis_client, keys)] == names


def test_one_letter_by_its_id_or_its_entrys(letters: list[str], redis_client: redis.Redis, keys: Keys) -> None:
    """The log names the entry."""
    entry_id = dead_letters(redis_client, keys)[2][b"_id"].decode()
    assert run_json("replay_dead_letters", "--id", letters[0], "--id", entry_id)["replayed_count"] == 2
    assert [letter[b"name"] for letter in dead_letters(redis_client, keys)] == [b"bad1"]


@pytest.mark.parametrize("command", ["replay_dead_letters", "purge_dead_letters"])
def test_an_id_that_no_letter_has_is_a_failure(
    letters: list[str], redis_client: redis.Redis, keys: Keys, command: str
) -> None:
    """The others are done all the same, and said."""
    output = StringIO()
    with pytest.raises(CommandError, match=r"^no dead letter has the id 1-0, xx$"):
        call_command(command, "--id", "xx", "--id", letters[0], "--id", "1-0", "--json", stdout=output)
    assert [each["left_count"] for each in json.loads(output.getvalue())["groups"]] == [0, 2]
    assert len(dead_letters(redis_client, keys)) == 2
    with pytest.raises(CommandError, match=f"{letters[1]}, among those that the other filters leave"):
        run(command, "--group", "slow", "--id", letters[1])
    assert len(dead_letters(redis_client, keys)) == 2


def test_many_letters_are_found_in_turns_and_each_is_moved_once(redis_client: redis.Redis, keys: Keys) -> None:
    """More than one call moves, foreign letters that lack our fields among them; two at once share the work."""
    group = GroupKeys(keys.stream(STREAM), GROUP)
    redis_client.xgroup_create(group.stream, GROUP, id="0", mkstream=True)
    with redis_client.pipeline(transaction=False) as pipeline:
        for number in range(450):
            pipeline.xadd(group.dead_letters, {"name": number})
        pipeline.execute()
    turns = list(find(redis_client, group))
    assert [len(turn) for turn in turns] == [200, 200, 50]
    every = [letter for turn in turns for letter in turn]
    assert [replay(redis_client, group, every), replay(redis_client, group, every)] == [450, 0]
    assert left_count(redis_client, keys) == redis_client.zcard(group.due) == 450
    redis_client.delete(group.parked, group.due)


def test_what_fails_again_meanwhile_is_not_found_twice(redis_client: redis.Redis, keys: Keys) -> None:
    """Else a replay of what fails at once would never end; in either direction, and from any letter on."""
    group = GroupKeys(keys.stream(STREAM), GROUP)
    for number in range(3):
        redis_client.xadd(group.dead_letters, {"name": number}, id=f"{number + 1}-0")
    for newest_first, expected in ((False, ["1-0", "2-0", "3-0"]), (True, ["3-0", "2-0", "1-0"])):
        seen = []
        for turn in find(redis_client, group, newest_first=newest_first, until="3-0"):
            seen += [letter.id for letter in turn]
            redis_client.xadd(group.dead_letters, {"name": "again"})
        assert seen == expected
    every = [letter.id for turn in find(redis_client, group) for letter in turn]
    assert every[:3] == ["1-0", "2-0", "3-0"]
    assert len(every) == 3 + 2
    named = list(
        find(redis_client, group, since="2-0", until="3-0", is_wanted=lambda each: each.fields[b"name"] == b"2")
    )
    assert [[letter.id for letter in turn] for turn in named] == [["3-0"]]


def test_slips_are_refused_and_say_what_would_be_right(letters: list[str], keys: Keys) -> None:
    """Nothing is thrown away by a forgotten filter or a misspelt group."""
    for arguments, said in (
        (["purge_dead_letters"], "select some"),
        (["purge_dead_letters", "--group", "bto", "--all"], "groups: slow, workers"),
        (["stream_status", "notification"], f"known streams: {keys.stream(STREAM)}"),
        (["replay_dead_letters", "--older-than", "1 week"], "90s, 15m, 2h or 7d"),
        (["replay_dead_letters", "--limit", "0"], "at least 1"),
    ):
        with pytest.raises(CommandError, match=said):
            run(*arguments)
    assert run_json("stream_status")["streams"][0]["groups"][1]["dead"] == 3
