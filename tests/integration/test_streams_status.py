"""What a group has not finished is found wherever it is, and each consumer is told apart."""

import redis

from realtime.redis.keys import Keys
from realtime.streams.keys import GroupKeys
from realtime.streams.status import read_status, read_unfinished
from tests.support.redis_server import RedisServer
from tests.support.streams import GROUP, STREAM, Recorder, append, fill_backlog, working
from tests.support.waiting import wait_until


def unfinished(client: redis.Redis, keys: Keys, limit: int = 100) -> list[list[bytes | None]] | None:
    found = read_unfinished(client, GroupKeys(keys.stream(STREAM), GROUP), ["name", "of"], limit=limit)
    return None if found is None else sorted(found, key=lambda values: values[0] or b"")


def test_entries_are_found_unread_pending_and_parked(redis_client: redis.Redis, keys: Keys) -> None:
    """Before the stream and the group exist, too. Finished ones and dead letters are left out."""
    stream = keys.stream(STREAM)
    assert unfinished(redis_client, keys) == []
    append(redis_client, keys, "a", "b", "c")
    assert unfinished(redis_client, keys) == [[b"a", None], [b"b", None], [b"c", None]]
    redis_client.xgroup_create(stream, GROUP, "0")
    ((_, entries),) = redis_client.xreadgroup(GROUP, "somebody", {stream: ">"}, count=2)
    fill_backlog(redis_client, keys, "user", ("parked", 0, 0))
    assert unfinished(redis_client, keys) == [[b"a", None], [b"b", None], [b"c", None], [b"parked", b"user"]]
    redis_client.xack(stream, GROUP, entries[0][0])
    redis_client.xadd(keys.dead_letters(STREAM, GROUP), {"name": "dead"})
    assert unfinished(redis_client, keys) == [[b"b", None], [b"c", None], [b"parked", b"user"]]
    assert unfinished(redis_client, keys, limit=3) == [[b"b", None], [b"c", None], [b"parked", b"user"]]
    assert unfinished(redis_client, keys, limit=2) is None


def test_odd_entries_do_no_harm(redis_client: redis.Redis, keys: Keys) -> None:
    """The largest id, an entry without the fields, one that was deleted, and a record that cannot be read."""
    stream = keys.stream(STREAM)
    redis_client.xgroup_create(stream, GROUP, "0", mkstream=True)
    (gone, _) = append(redis_client, keys, "gone", "kept")
    redis_client.xadd(stream, {"other": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
    redis_client.xreadgroup(GROUP, "somebody", {stream: ">"})
    redis_client.xdel(stream, gone)
    redis_client.hset(keys.parked_entries(STREAM, GROUP), "1-1", "not as a worker writes it")
    assert unfinished(redis_client, keys) == [[None, None]] * 3 + [[b"kept", None]]


async def test_each_consumer_has_its_figures(redis_server: RedisServer, redis_client: redis.Redis, keys: Keys) -> None:
    """A living worker holds its lease; one that died is listed until others have taken its entries."""
    stream = keys.stream(STREAM)
    append(redis_client, keys, "a", "b")
    redis_client.xgroup_create(stream, GROUP, "0")
    redis_client.xreadgroup(GROUP, "dead", {stream: ">"}, count=1)
    async with working(redis_server.url, keys, Recorder()) as worker:
        await wait_until(lambda: worker.statistics().handled_count == 1)
        (found,) = read_status(redis_client, [stream])
        members = {member.name: member for member in found.groups[0].members}
        assert (members["dead"].is_alive, members["dead"].pending) == (False, 1)
        living = members[worker.consumer]
        assert (living.is_alive, living.pending) == (True, 0)
        assert 0 <= living.idle_seconds < 60
        assert (found.groups[0].consumers, found.groups[0].workers) == (2, 1)
