"""
What every part of the suite stands on: how the author of a backend describes it, and how a rule is checked.

Owns the adapters to a backend, and the decorator `rule`. Does not own the rules.
"""

import contextlib
import functools
import inspect
import re
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from django.test import override_settings
from django.utils import timezone

from realtime.extras import extra
from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.journal import Journal
from realtime.tasks.django_api import AnyTask, AnyTaskResult, BaseTaskBackend, InvalidTask, task_backends

with extra("conformance"):
    import pytest

__all__ = ["CAPABILITIES", "Difference", "Suite", "now_ms", "rule"]

# What some backends do beyond Django's documentation → in one line.
CAPABILITIES = {
    "retries": "options max_attempts and backoff: a failed attempt is followed by another",
    "enqueue_on_commit": "option enqueue_on_commit: a task of a transaction that is rolled back does not run",
    "unique_key": "option unique_key: while a task is unfinished, enqueueing it again returns its result",
    "timeout": "option timeout: a task that runs for longer has failed",
    "wait": "backend.wait() and backend.await_result(): block until a task has finished",
    "periodic": "tasks that are enqueued again and again by the backend",
    "survives_worker_death": "another worker runs the task of a worker that was killed",
}
TICK_SECONDS = 0.02


def now_ms() -> datetime:
    """The time in whole milliseconds, rounded down: a store need not keep more of a time than that."""
    now = timezone.now()
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """
    A rule that a backend is known to break.

    Its test passes while the rule is broken in this way, and fails when the backend has come to keep it.

    Attributes:
        reason: Why the backend differs.
        shows: A regular expression that is found in the failure of the test.
    """

    reason: str
    shows: str


class Suite:
    """
    A backend under test, as its author describes it.

    Derive from `realtime.tasks.conformance.suite.BackendSuite`, and override what differs from the defaults.

    Attributes:
        alias: The backend's name in `TASKS`.
        runs: Where tasks run: "in_worker" (override `worker`), "immediately" within `enqueue()`, or "never".
        capabilities: What the backend does beyond Django; keys of CAPABILITIES.
        known_differences: The name of a test, or `name[parameter]` → how the backend breaks this rule.
        deadline_seconds: A task that has not finished after this time has failed its test.
        takeover_seconds: For "survives_worker_death": another worker has begun the task after this time.
        large_argument_bytes: The largest argument that the backend must take.
    """

    alias: ClassVar[str] = "default"
    runs: ClassVar[Literal["in_worker", "immediately", "never"]] = "in_worker"
    capabilities: ClassVar[Set[str]] = frozenset()
    known_differences: ClassVar[Mapping[str, Difference]] = {}
    deadline_seconds: ClassVar[float] = 20.0
    takeover_seconds: ClassVar[float] = 60.0
    large_argument_bytes: ClassVar[int] = 200_000

    # Of the test that runs: its name with the parameter, its directory and its journal.
    _test_name: str
    _directory: Path
    journal: Journal

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if unknown := set(cls.capabilities) - CAPABILITIES.keys():
            raise TypeError(f"{cls.__name__}.capabilities has {sorted(unknown)}, which is none of {[*CAPABILITIES]}")

    # For authors to override ------------------------------------------------------------------------------------

    @pytest.fixture
    def tasks_setting(self) -> dict[str, Any] | None:
        """`TASKS` for a test, or None for that of the project. A fixture, so it may ask for others."""
        return None

    def worker(self) -> AbstractContextManager[Any]:
        """
        Run a worker of all queues while the returned context manager is open.

        The worker runs one task at a time, in a thread or a process. It may finish the task that it runs when the
        context manager closes. What the context manager yields is what `kill_worker` gets. Several may be open.
        """
        raise NotImplementedError(f'{type(self).__name__}.worker() is not defined; or set runs = "immediately"')

    def kill_worker(self, worker: Any) -> None:
        """For "survives_worker_death": end what `worker()` has yielded as SIGKILL does, and return when it is dead."""
        raise NotImplementedError(f"{type(self).__name__}.kill_worker() is not defined")

    def read_result(self, result: AnyTaskResult) -> AnyTaskResult:
        """Return what the store has of a result now. Override it if get_result() is not supported."""
        return self.backend.get_result(result.id)

    def wait_for(self, result: AnyTaskResult, seconds: float) -> AnyTaskResult:
        """
        Return the result of a task that has finished. Override it if the backend can wait.

        Raises:
            TimeoutError: It has not finished in time.
        """
        deadline = time.monotonic() + seconds
        while not (latest := self.read_result(result)).is_finished:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the task {result.task.name!r} is still {latest.status} after {seconds} s")
            time.sleep(TICK_SECONDS)
        return latest

    def with_options(self, task: AnyTask, **options: Any) -> AnyTask:
        """Return the task with options of the backend, which are named in CAPABILITIES."""
        return task.using(**options)

    def declared_with_options(self, name: str, **options: Any) -> AnyTask:
        """Return what `@task(**options)` makes of the function `name` of `tasks`."""
        return tasks.declare(name, alias=self.alias, **options)

    def wait(self, result: AnyTaskResult, seconds: float) -> AnyTaskResult:
        """For "wait": block until the task has finished."""
        return self.backend.wait(result, seconds)  # type: ignore[attr-defined,no-any-return]

    async def await_result(self, result: AnyTaskResult, seconds: float) -> AnyTaskResult:
        """For "wait": the async twin."""
        return await self.backend.await_result(result, seconds)  # type: ignore[attr-defined,no-any-return]

    def periodically(self, seconds: float, task: AnyTask, *args: Any) -> AbstractContextManager[Any]:
        """For "periodic": while this is open, workers enqueue `task(*args)` every so many seconds."""
        raise NotImplementedError(f"{type(self).__name__}.periodically() is not defined")

    # For tests --------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> BaseTaskBackend:
        """The backend under test."""
        return task_backends[self.alias]

    def run(self, task: AnyTask, /, *args: Any, **kwargs: Any) -> AnyTaskResult:
        """Enqueue a task, let a worker run it, and return the finished result."""
        result = task.enqueue(*args, **kwargs)
        if self.runs == "immediately":
            return result
        with self.working():
            (finished,) = self.finished(result)
        return finished

    def finished(self, *results: AnyTaskResult) -> list[AnyTaskResult]:
        """Wait for each of these results; a worker is running."""
        if self.runs == "immediately":
            return list(results)
        self.needs_results()
        return [self.wait_for(result, self.deadline_seconds) for result in results]

    @contextlib.contextmanager
    def working(self) -> Iterator[Any]:
        """A worker; nothing where tasks run within `enqueue()`. In the end no task is held, so the worker can end."""
        with contextlib.nullcontext() if self.runs == "immediately" else self.worker() as worker:
            try:
                yield worker
            finally:
                self.release()

    def needs_results(self) -> None:
        """Skip a test that sees what a task did by its result."""
        is_own = type(self).read_result is not Suite.read_result
        if self.runs == "in_worker" and not self.backend.supports_get_result and not is_own:
            pytest.skip("supports_get_result is False, and read_result() is not overridden: results cannot be seen")

    def refuses(self, name: str) -> bool:
        """Whether the backend has refused an async task, as it must if supports_async_task is False."""
        if self.backend.supports_async_task or not inspect.iscoroutinefunction(tasks.function(name)):
            return False
        with pytest.raises(InvalidTask):
            tasks.declare(name, alias=self.alias)
        return True

    def release(self) -> None:
        """Let the task `hold`, which has been given `self.file("release")`, go on."""
        Path(self.file("release")).touch()

    def file(self, name: str) -> str:
        """The path of a file of this test."""
        return str(self._directory / name)

    @pytest.fixture(autouse=True)
    def _prepared(
        self, request: pytest.FixtureRequest, tasks_setting: dict[str, Any] | None, tmp_path: Path
    ) -> Iterator[None]:
        self._test_name = request.node.name
        self._directory = tmp_path
        self.journal = Journal(tmp_path / "journal")
        configured = override_settings(TASKS=tasks_setting) if tasks_setting else contextlib.nullcontext()
        with configured, tasks.bound_to(self.alias):
            yield

    def _difference(self, function_name: str) -> Difference | None:
        return self.known_differences.get(self._test_name) or self.known_differences.get(function_name)


class _Test(Protocol):
    __name__: str
    __doc__: str | None

    def __call__(self, suite: Any, /, *args: Any, **kwargs: Any) -> None: ...


def rule[T: _Test](source: str, *, needs: str = "") -> Callable[[T], T]:
    """
    Make a rule of a test: its docstring is the rule, in the words of `source`.

    A failure names both. A known difference of the backend turns the result around.

    Args:
        source: Where the rule is written.
        needs: The capability beyond Django without which the test is skipped.
    """

    def decorate(test: T) -> T:
        @functools.wraps(test)
        def checked(self: Suite, *args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            if needs and needs not in self.capabilities:
                pytest.skip(f"{type(self).__name__}.capabilities does not have {needs!r}: {CAPABILITIES[needs]}")
            difference = self._difference(test.__name__)
            try:
                test(self, *args, **kwargs)
            except pytest.skip.Exception:
                raise
            except (Exception, pytest.fail.Exception) as error:
                if difference and re.search(difference.shows, f"{type(error).__name__}: {error}"):
                    return
                error.add_note(f"Rule: {inspect.getdoc(test)}\nSource: {source}")
                raise
            if difference:
                pytest.fail(f"this rule is kept now: remove it from known_differences ({difference.reason})")

        checked.source = source  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate
