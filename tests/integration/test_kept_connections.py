"""The bot's thread keeps its database connection between calls, but no broken one, and none while it is idle."""

from collections.abc import AsyncIterator, Sequence

import pytest
from django.db import OperationalError, connection

from notifications.delivery import batched_calls
from notifications.delivery.batched_calls import DatabaseCalls
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def calls() -> AsyncIterator[DatabaseCalls]:
    calls = DatabaseCalls()
    yield calls
    calls.close()


class Asking:
    """Asks the database; remembers the connection of each call."""

    def __init__(self) -> None:
        self.used: list[object] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        self.used.append(connection.connection)
        return list(numbers)


def breaking(numbers: Sequence[int]) -> list[int]:
    """The server ends the connection during the call."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    return list(numbers)


async def test_calls_share_a_connection(calls: DatabaseCalls) -> None:
    """Also where Django would close it at the end of each request, which is its default."""
    assert connection.settings_dict["CONN_MAX_AGE"] == 0
    asking = Asking()
    for number in range(3):
        assert await calls.run(asking, number) == number
    assert len({id(each) for each in asking.used}) == 1


@pytest.mark.postgres
async def test_a_broken_connection_is_replaced(calls: DatabaseCalls) -> None:
    """The call during which it broke fails, and the next one works."""
    asking = Asking()
    await calls.run(asking, 1)
    with pytest.raises(OperationalError):
        await calls.run(breaking, 2)
    assert await calls.run(asking, 3) == 3
    first, second = asking.used
    assert first is not second


async def test_an_idle_thread_has_no_connection(calls: DatabaseCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the next call works, even if the database was restarted meanwhile."""
    monkeypatch.setattr(batched_calls, "IDLE_SECONDS", 0.01)
    await calls.run(Asking(), 1)
    # Not by a call, because the thread is not idle then.
    look = calls._thread.executor.submit
    await wait_until(lambda: look(lambda: connection.connection is None).result())
