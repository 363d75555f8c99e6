"""
A site whose users have their own model, in one process: python -m tests.custom_user.live_site KEYS.

KEYS is a JSON list of primary keys. Makes these users, connects a WebSocket for each, runs relay, bot and ingress, and
notifies each user by `notify()` and through the ingress. Prints, as JSON, what each heard and was sent. Settings come
from tests.custom_user.settings.
"""

import asyncio
import json
import sys
from typing import Any

import django
from django.core.management import call_command

__all__ = ["send_message"]

DEADLINE_SECONDS = 60
# (user id as text, message), as the bot's transport was called.
sent: list[tuple[str, str]] = []


async def send_message(user_id: Any, message: str) -> None:
    """NOTIFICATIONS["SEND_MESSAGE"]."""
    sent.append((str(user_id), message))


class Listener:
    """One user's WebSocket, and the objects that came on it."""

    def __init__(self, cookie: str) -> None:
        from channels.testing import WebsocketCommunicator

        from realtime.routing import websocket_application

        headers = [(b"host", b"testserver"), (b"cookie", f"sessionid={cookie}".encode())]
        self._client = WebsocketCommunicator(websocket_application(), "/ws/", headers)
        self.objects: list[Any] = []

    async def start(self, tasks: asyncio.TaskGroup) -> asyncio.Task[None]:
        is_connected, _ = await self._client.connect(DEADLINE_SECONDS)
        assert is_connected
        return tasks.create_task(self._read())

    async def ask_for(self, topic: str) -> None:
        await self._client.send_to(json.dumps({"type": "subscribe", "topic": topic}))

    async def close(self) -> None:
        await self._client.disconnect()

    def messages(self) -> list[str]:
        return [each["data"]["message"] for each in self.objects if each["type"] == "message"]

    async def _read(self) -> None:
        while True:
            text = await self._client.receive_from(DEADLINE_SECONDS)
            self.objects += [json.loads(line) for line in text.split("\n")]


def make_users(keys: list[Any]) -> dict[str, tuple[Any, str]]:
    """Key as text → the user and a session cookie."""
    from importlib import import_module

    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model

    users: Any = get_user_model()
    made: dict[str, tuple[Any, str]] = {}
    for number, key in enumerate(keys):
        fields = {users._meta.pk.name: key}
        if users._meta.pk.name != users.USERNAME_FIELD:
            fields[users.USERNAME_FIELD] = f"user{number}"
        users.objects.create(**fields)
        user = users.objects.get(pk=key)
        session = import_module(settings.SESSION_ENGINE).SessionStore()
        session[SESSION_KEY] = users._meta.pk.value_to_string(user)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.create()
        made[str(user.pk)] = (user, session.session_key)
    return made


async def live(users: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    from channels.layers import get_channel_layer

    from notifications.services import anotify
    from notifications.workers.service import Subscriber
    from realtime import conf
    from realtime.topics import user_topic

    async def until(what: str, holds: Any) -> None:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not holds():  # noqa: ASYNC110 - a fact, and not an event of ours
                    await asyncio.sleep(0.02)
        except TimeoutError:
            state = {key: listener.objects for key, listener in listeners.items()}
            raise AssertionError(f"{what}: {state}, {sent}") from None

    listeners = {key: Listener(cookie) for key, (_, cookie) in users.items()}
    redis, channel = conf.async_redis(), conf.keys().ingress_channel()
    subscriber = Subscriber()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(subscriber.run())
        reading = [await listener.start(tasks) for listener in listeners.values()]
        await until("all are greeted", lambda: all(len(each.objects) >= 2 for each in listeners.values()))
        for key, (user, _) in users.items():
            await anotify(user, f"by notify for {key}")
        for key in users:
            request = json.dumps(
                {"user_id": int(key) if "--numbers" in sys.argv else key, "message": f"by PUBLISH for {key}"}
            )
            while not await redis.publish(channel, request):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await until("all have heard", lambda: all(len(each.messages()) >= 2 for each in listeners.values()))
        await until("all were sent", lambda: len(sent) >= 2 * len(users))
        topics = {key: user_topic(user.pk) for key, (user, _) in users.items()}
        for listener in listeners.values():
            for topic in topics.values():
                await listener.ask_for(topic)
        count = len(topics)
        answers = ("subscribed", "error")
        await until(
            "all are answered",
            lambda: all(sum(o["type"] in answers for o in each.objects) >= 1 + count for each in listeners.values()),
        )
        for task in reading:
            task.cancel()
        subscriber.stop()
        await running
    for listener in listeners.values():
        await listener.close()
    await get_channel_layer().flush()
    await conf.close_async_redis()
    return {
        key: {
            "topic": topics[key],
            "objects": listener.objects,
            "heard": listener.messages(),
            "sent": [message for user_id, message in sent if user_id == key],
        }
        for key, listener in listeners.items()
    }


def main() -> None:
    # Else the module has two lists: the one that the bot fills is not __main__'s.
    from tests.custom_user import live_site

    global sent
    sent = live_site.sent
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    report = asyncio.run(live(make_users(json.loads(sys.argv[1]))))
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
