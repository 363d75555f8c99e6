"""
The whole suite, for the author of a backend::

    from realtime.tasks.conformance.suite import BackendSuite


    class TestMyBackend(BackendSuite):
        capabilities = {"retries"}

        def worker(self):
            return run_a_worker_in_a_thread()

Owns which rules belong together. Does not own the rules: each module of this package has those of one subject.
"""

from realtime.extras import extra

with extra("conformance"):
    import pytest

# Before they are imported: a failure then shows the values that were compared.
pytest.register_assert_rewrite(
    *(
        f"realtime.tasks.conformance.{name}"
        for name in (
            "defining",
            "enqueueing",
            "running",
            "failing",
            "results",
            "ordering",
            "signals",
            "retrying",
            "beyond",
        )
    )
)

from realtime.tasks.conformance.base import CAPABILITIES, Difference, Suite, rule  # noqa: E402 - see above
from realtime.tasks.conformance.beyond import BeyondDjango  # noqa: E402
from realtime.tasks.conformance.defining import DefiningTasks  # noqa: E402
from realtime.tasks.conformance.enqueueing import EnqueueingTasks  # noqa: E402
from realtime.tasks.conformance.failing import FailingTasks  # noqa: E402
from realtime.tasks.conformance.ordering import OrderingTasks  # noqa: E402
from realtime.tasks.conformance.results import ReadingResults, WatchingResults  # noqa: E402
from realtime.tasks.conformance.retrying import RetryingTasks  # noqa: E402
from realtime.tasks.conformance.running import RunningTasks  # noqa: E402
from realtime.tasks.conformance.signals import SendingSignals  # noqa: E402

__all__ = ["CAPABILITIES", "BackendSuite", "Difference", "DjangoSuite", "EnqueueingSuite", "Suite", "rule"]


class EnqueueingSuite(DefiningTasks, EnqueueingTasks, ReadingResults):
    """What a backend does before a task runs: enough for one that never runs any (`runs = "never"`)."""


class DjangoSuite(EnqueueingSuite, RunningTasks, FailingTasks, WatchingResults, OrderingTasks, SendingSignals):
    """Everything that Django documents."""


class BackendSuite(DjangoSuite, RetryingTasks, BeyondDjango):
    """Everything that Django documents, and what the backend does beyond it: see `capabilities`."""
