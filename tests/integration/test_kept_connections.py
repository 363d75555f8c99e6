"""A database thread keeps its connection between calls, but no broken one, and none while it is idle."""

import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.db import OperationalError, connection, connections

from notifications.database import threads
from notifications.database.threads import DatabaseThread
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def thread() -> AsyncIterator[DatabaseThread]:
    thread = DatabaseThread(name="test")
    yield thread
    thread.close()


class Asking:
    """Asks the database; remembers the connection of each call."""

    def __init__(self) -> None:
        self.used: list[object] = []

    def __call__(self, number: int) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        self.used.append(connection.connection)
        return number


def breaking() -> None:
    """The server ends the connection during the call."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def test_calls_share_a_connection(thread: DatabaseThread) -> None:
    """Also where Django would close it at the end of each request, which is its default."""
    assert connection.settings_dict["CONN_MAX_AGE"] == 0
    asking = Asking()
    for number in range(3):
        assert await thread.call(asking, number) == number
    assert len({id(each) for each in asking.used}) == 1


@pytest.mark.postgres
async def test_a_broken_connection_is_replaced(thread: DatabaseThread) -> None:
    """The call during which it broke fails, and the next one works."""
    asking = Asking()
    await thread.call(asking, 1)
    with pytest.raises(OperationalError):
        await thread.call(breaking)
    assert await thread.call(asking, 3) == 3
    first, second = asking.used
    assert first is not second


async def test_an_idle_thread_has_no_connection(thread: DatabaseThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the next call works, even if the database was restarted meanwhile."""
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.01)
    await thread.call(Asking(), 1)
    # Not by a call, because the thread is not idle then.
    look = thread._threads.executor.submit
    await wait_until(lambda: look(lambda: connection.connection is None).result())


async def test_a_call_after_the_end_leaves_neither_thread_nor_connection(thread: DatabaseThread) -> None:
    """As when a bot has stopped while some of its calls still waited for the database."""
    wrappers: list[Any] = []

    def ask() -> None:
        wrappers.append(connections["default"])
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    thread.close()
    await thread.call(ask)
    await wait_until(lambda: not any(each.name.startswith("test") for each in threading.enumerate()))
    assert [each.connection for each in wrappers] == [None]
