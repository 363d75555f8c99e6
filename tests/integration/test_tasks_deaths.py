"""Workers of tasks that die or stand still, at each place: the task ends once, and never stays in between."""

import pytest

from realtime.exceptions import WorkerLost
from realtime.tasks import await_result
from tests.support.tasks import Tasks
from tests.support.tasks_of_tests import calls, gates, hold_each
from tests.support.waiting import wait_until

pytestmark = pytest.mark.database_independent


async def test_the_late_end_of_a_task_that_another_worker_has_is_refused(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    """And its entry stays: if that worker dies as well, a third one runs the task."""
    result = hold_each.enqueue("a")
    async with tasks.working(concurrency=1) as first:
        await wait_until(lambda: calls == ["a"])
        async with tasks.working(concurrency=1) as second:
            await wait_until(lambda: tasks.hand_over(result.id, first, second))
            assert len(calls) == 2
            gates["a 1"].set()
            await wait_until(lambda: "is another worker's now" in caplog.text)
            assert tasks.status(result) == "RUNNING"
            assert tasks.left_count() == 1
            async with tasks.working(concurrency=1) as third:
                await wait_until(lambda: tasks.hand_over(result.id, second, first, third))
                gates["a 3"].set()
                await await_result(result, 10)
                assert result.return_value == 3
                assert len(result.worker_ids) == 3
                assert [error.exception_class for error in result.errors] == [WorkerLost, WorkerLost]
                gates["a 2"].set()
                await wait_until(lambda: caplog.text.count("is another worker's now") == 2)
                await wait_until(lambda: tasks.left_count() == 0)
    assert result.return_value == 3
