"""The conformance suite on backends that each have one fault. tests/integration/test_tasks_faults.py runs this file."""

import uuid
from contextlib import AbstractContextManager
from typing import Any

import pytest

from realtime.tasks.conformance.suite import CAPABILITIES, BackendSuite
from tests.support.memory_tasks import MemoryBackend, Worker, worker_of

__all__ = ["FAULTS"]

# The fault → a test that finds it.
FAULTS = {
    "buries_tasks_with_workers": "test_another_worker_runs_the_task_of_a_dead_one",
    "empty_lists_are_objects": "test_what_goes_in_comes_out",
    "errors_end_the_worker": "test_an_error_that_is_no_exception_does_not_end_the_worker",
    "finishes_each_attempt": "test_a_task_that_is_tried_again_finishes_once",
    "floats_only": "test_what_goes_in_comes_out",
    "forgets_errors": "test_a_failed_attempt_is_followed_by_another",
    "forgets_keys": "test_an_unfinished_task_is_not_enqueued_again",
    "forgets_lost_functions": "test_a_function_that_is_gone_is_a_failure",
    "forgets_the_transaction": "test_a_task_of_a_transaction_that_is_rolled_back_does_not_run",
    "last_in_first_out": "test_tasks_of_one_priority_run_in_their_order",
    "long_ids": "test_the_id_of_a_result_is_unique_and_short",
    "loses_priority": "test_a_result_has_the_task_as_it_was_enqueued",
    "never_validates": "test_an_invalid_task_is_refused",
    "no_priority": "test_a_higher_priority_runs_sooner",
    "no_signal": "test_a_signal_is_sent_when_a_task_is_enqueued",
    "no_time_limit": "test_a_task_that_runs_for_too_long_has_failed",
    "none_is_nothing": "test_a_task_may_return_none",
    "one_worker_id": "test_two_workers_share_the_tasks",
    "runs_early": "test_a_deferred_task_runs_at_its_time_and_not_before",
    "runs_twice": "test_each_task_runs_once",
    "sync_on_the_loop": "test_a_sync_task_may_use_the_database",
    "takes_anything": "test_an_argument_that_is_no_json_is_refused",
    "waits_in_vain": "test_wait_gives_up",
    "wrong_sender": "test_a_signal_is_sent_when_a_task_is_enqueued",
}


class FaultySuite(BackendSuite):
    """All rules that the backend in memory keeps when it has no fault."""

    deadline_seconds = takeover_seconds = 1.0
    capabilities = frozenset(CAPABILITIES)
    fault: str

    @pytest.fixture
    def tasks_setting(self) -> dict[str, Any]:
        options = {"store": uuid.uuid4().hex, "faults": [self.fault]}
        cls = f"{MemoryBackend.__module__}.{MemoryBackend.__qualname__}"
        return {"default": {"BACKEND": cls, "QUEUES": ["default", "other"], "OPTIONS": options}}

    def worker(self) -> AbstractContextManager[Worker]:
        return worker_of(self.backend)

    def kill_worker(self, worker: Worker) -> None:
        worker.die()


for _fault in FAULTS:
    _name = f"Test_{_fault}"
    globals()[_name] = type(_name, (FaultySuite,), {"fault": _fault, "__module__": __name__})
