"""
Everything that a site asks of Redis, in one process: python -m tests.custom_user.operate.

Beside what live_site does: live topics, groups and named channels of the channel layer, resuming, orders to end
connections, dead letters and the commands. Prints, as JSON, what came of it. Settings come from
tests.custom_user.settings.
"""

import asyncio
import io
import json
import socket
import sys
from collections.abc import Callable
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.core.management import call_command

DEADLINE_SECONDS = 60


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await sync_to_async(holds)():  # noqa: ASYNC110 - a fact, and not an event of ours
            await asyncio.sleep(0.02)


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue()


async def use_layer() -> dict[str, Any]:
    """The channel layer, with a second one as another process has it."""
    from django.conf import settings

    from realtime.broker.history import HistoryPolicy
    from realtime.broker.publication import Position
    from realtime.broker.publish import PublishRequest
    from realtime.layer import RedisChannelLayer
    from tests.support.topic_clients import Client, ClientSink

    class Hears(Client):
        def check(self, data: Any, position: Position) -> None:
            heard.append(data)

    heard: list[Any] = []
    config = settings.CHANNEL_LAYERS["default"]["CONFIG"]
    layer, other = RedisChannelLayer(**config), RedisChannelLayer(**config)
    channel = await layer.new_channel()
    await layer.group_add("news.today", channel)
    first = await other.publish(PublishRequest("news.today", b'"missed"', HistoryPolicy()))
    await layer.hub.join(
        "news.today", ClientSink(Hears(Position(0, first.position.epoch))), since=Position(0, first.position.epoch)
    )
    await sync_to_async(other.publish_many_now)(
        [
            PublishRequest("news.today", b'"live"', HistoryPolicy(), "once"),
            PublishRequest("news.today", b'"twice"', HistoryPolicy(), "once"),
        ]
    )
    await other.group_send("news.today", {"type": "a.message"})
    await other.send(channel, {"type": "to.one"})
    waiting = asyncio.create_task(layer.receive("worker"))
    await asyncio.wait([waiting], timeout=0)
    received = [(await layer.receive(channel))["type"] for _ in range(4)]
    while not waiting.done():
        await other.send("worker", {"type": "to.worker"})
        await asyncio.wait([waiting], timeout=0.05)
    for each in (layer, other):
        await each.flush()
    return {"heard": heard, "received": received, "worker": waiting.result()["type"]}


async def use_stream(keys: list[str]) -> dict[str, Any]:
    """Relay, bot, ingress and sweep, a bad entry, and what people ask and do about it."""
    from notifications.health import check_bot
    from notifications.services import anotify
    from notifications.workers.service import Subscriber
    from realtime import conf
    from realtime.access import adisconnect

    redis, names = conf.sync_redis(), conf.keys()
    stream = names.stream("notifications")
    subscriber = Subscriber()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(subscriber.run())
        await subscriber.ready.wait()
        for number in range(5):
            await anotify(keys, f"number {number}", collapse_key="one")
        await sync_to_async(redis.xadd)(stream, {"nothing": "of ours"})
        dead = names.dead_letters("notifications", "bot")
        await until(lambda: redis.xlen(dead) == 1)
        await until(
            lambda: (
                json.loads(command("stream_status", "--json"))
                and redis.hlen(names.key_owners("notifications", "bot")) == 0
            )
        )
        await until(
            lambda: redis.publish(names.ingress_channel(), json.dumps({"user_id": keys[0], "message": "asked"}))
        )
        await until(lambda: redis.hget(names.counters("ingress"), "accepted") == b"1")
        await adisconnect(*keys)
        await sync_to_async(check_bot)(socket.gethostname())
        replayed = await sync_to_async(command)("replay_dead_letters", "notifications")
        await until(lambda: redis.xlen(dead) == 1)
        purged = await sync_to_async(command)("purge_dead_letters", "notifications", "--all")
        said = [await sync_to_async(command)("stream_status"), await sync_to_async(command)("drain_outbox")]
        subscriber.stop()
        await running
    await conf.close_async_redis()
    return {"replayed": replayed, "purged": purged, "said": said, "left": redis.xlen(dead)}


def main() -> None:
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    from django.contrib.auth import get_user_model

    users: Any = get_user_model()
    keys = [str(users.objects.create(email=f"user{number}@example.com").pk) for number in range(3)]
    report = {**asyncio.run(use_layer()), **asyncio.run(use_stream(keys))}
    envelope = {"id": 1, "event_id": 1, "kind": "info", "created_at": "2026-01-01T00:00:00Z"}
    envelope |= {"title": "", "message": "by hand", "url": "", "data": None}
    report["published"] = command("publish", f"user.x{keys[0][:5]}", json.dumps(envelope))
    report["notified"] = command("notify", keys[0], "from a shell")
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
