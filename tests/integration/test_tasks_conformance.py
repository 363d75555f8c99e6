"""Django's own task backends keep the rules of its documentation, except where this says so."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.suite import Difference, DjangoSuite, EnqueueingSuite
from realtime.tasks.django_api import DJANGO_TASKS

pytestmark = pytest.mark.database_independent


class TestImmediateBackend(DjangoSuite):
    """It runs a task within `enqueue()`."""

    runs = "immediately"
    known_differences: ClassVar[Mapping[str, Difference]] = {
        "test_arguments_go_through_json": Difference(
            reason="normalize_json() replaces tuples and bytes, and keeps keys that are no text",
            shows="1: 'one'",
        ),
        "test_a_task_may_change_its_arguments": Difference(
            reason="the function gets the very lists and dicts of the result",
            shows="by the task'",
        ),
    }

    @pytest.fixture
    def tasks_setting(self) -> dict[str, Any]:
        return {"default": {"BACKEND": f"{DJANGO_TASKS}.backends.immediate.ImmediateBackend"}}


class TestDummyBackend(EnqueueingSuite):
    """It never runs a task."""

    runs = "never"
    # supports_get_result is False, because its results are those of one thread. The documentation then has an error
    # that the backend does not raise.
    known_differences: ClassVar[Mapping[str, Difference]] = {
        "test_a_backend_without_results_says_so": Difference(
            reason="get_result() works in the thread that enqueued", shows="DID NOT RAISE .*NotImplementedError"
        ),
        "test_an_unknown_id_does_not_exist": Difference(
            reason="get_result() works in the thread that enqueued", shows="TaskResultDoesNotExist"
        ),
        "test_a_result_of_another_task_does_not_match": Difference(
            reason="get_result() works in the thread that enqueued", shows="TaskResultMismatch"
        ),
        "test_a_result_is_found_by_another_thread": Difference(
            reason="get_result() of another thread finds nothing",
            shows="TaskResultDoesNotExist.*NotImplementedError",
        ),
    }

    @pytest.fixture
    def tasks_setting(self) -> dict[str, Any]:
        return {"default": {"BACKEND": f"{DJANGO_TASKS}.backends.dummy.DummyBackend"}}

    def test_an_earliest_time_cannot_be_relative(self) -> None:
        """The documentation of run_after allows a timedelta; validate_task() of Django's own base class fails on it."""
        with pytest.raises(AttributeError, match="utcoffset"):
            tasks.add.using(run_after=timedelta(seconds=1))
