"""When bot and relay have stopped, none of their threads is left."""

import asyncio
import functools
import threading
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from notifications import services
from notifications.models import Delivery
from notifications.transports import Address, Message, Transport, console
from notifications.workers.service import Subscriber
from tests.support.domain import make_users
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]
State = Delivery.State


class InThread(Transport):
    """Calls in threads of its own, as email does."""

    def find_addresses(self, recipient: Any) -> list[Address]:
        return [Address(key="only")]

    async def send(self, message: Message, address: Address) -> str:
        return await self.in_thread(lambda texts: texts.body, message.texts)


def threads() -> set[threading.Thread]:
    """Those of this process but for the event loop's own, which end with it, and asgiref's one, which all share."""
    all_of_them = threading.enumerate()
    return {thread for thread in all_of_them if not thread.name.startswith(("asyncio_", "ThreadPoolExecutor-"))}


def have_ended(some: set[threading.Thread]) -> bool:
    return not any(thread.is_alive() for thread in some)


async def run_once(message: str) -> set[threading.Thread]:
    """Let a bot deliver one notification, stop it, and give the threads that there were."""
    subscriber = Subscriber()
    running = asyncio.create_task(subscriber.run(), name="subscriber under test")
    try:
        (user,) = await sync_to_async(make_users)(1, prefix=message)
        await services.anotify(user, message)
        sent = Delivery.objects.filter(notification__event__message=message, state=State.SENT)
        await wait_until(lambda: running.done() or _is_count(sent, 2))
        return threads()
    finally:
        subscriber.stop()
        await running


async def _is_count(rows: Any, count: int) -> bool:
    return bool(await rows.acount() == count)


async def test_a_bot_that_has_stopped_leaves_no_thread(signalbox: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """That of its database calls, the printer's and its transports'; another one in the same process has new ones."""
    signalbox.NOTIFICATIONS = {
        "TRANSPORTS": {
            "console": {"BACKEND": "notifications.transports.console.ConsoleTransport"},
            "threaded": {"BACKEND": f"{__name__}.InThread"},
        },
        "DEFAULT_TRANSPORTS": ["console", "threaded"],
    }
    # Other tests print without a bot that would end the thread: all of the process share it.
    console._printer.close()
    before = threads()
    for message in ("first", "second"):
        during = await run_once(message) - before
        assert {thread.name.rpartition("_")[0] for thread in during} >= {"database calls", "console", "threaded"}
        await wait_until(functools.partial(have_ended, during))
    assert capsys.readouterr().out.count("user ") == 2
