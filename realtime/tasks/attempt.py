"""
One attempt of a task: calls its function, and decides what its outcome is.

Owns the call, Django's signals around it, the timeouts of async tasks, and whether and when the task is tried again.
Does not own threads (runner) nor Redis (worker).
"""

import asyncio
import inspect
import json
import logging
import math
import random
import sys
from collections.abc import Callable, Sequence
from traceback import format_exception_only
from typing import Any

from asgiref.sync import sync_to_async
from django.dispatch import Signal
from django.utils import timezone

from realtime.exceptions import PermanentError, Retry, TaskTimedOut, TaskUnknown
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.django_api import (
    AnyTask,
    AnyTaskResult,
    TaskContext,
    TaskError,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from realtime.tasks.record import TaskFields, call_of, error_json, result_of, to_json, workers_of
from realtime.tasks.store import Outcome, TaskQueue

__all__ = ["Attempt"]

logger = logging.getLogger(__name__)
_django_logger = logging.getLogger("django.tasks")

# The longest wait between two attempts, if the waits double.
BACKOFF_LIMIT_SECONDS = 3600.0
# Each wait is lengthened at random by up to this part of it.
JITTER = 0.1
# The longest wait between two attempts that an option or an error can ask for.
DELAY_LIMIT_SECONDS = 366 * 86_400.0


class Attempt:
    """
    One attempt. Call `prepare` first, then `run` in a thread or `arun` on the event loop.

    Args:
        backend: The backend of the worker.
        queue: The queue of the task.
        id: The id of the task.
        claim: Identifies this attempt. Redis records an outcome only with the claim of the newest attempt.
        fields: The task's hash when the attempt began.

    Attributes:
        queue, id, claim: As given.
        outcome: How the attempt ended; None until then.
        is_counted: Whether its end has been counted.
        timeout: The time limit of the attempt, in seconds; None for no limit.
    """

    __slots__ = (
        "_backend",
        "_count",
        "_error",
        "_fields",
        "_is_given_up",
        "_result",
        "_task",
        "claim",
        "id",
        "is_counted",
        "outcome",
        "queue",
        "timeout",
    )

    def __init__(
        self, backend: RedisStreamBackend, queue: TaskQueue, id: str, claim: bytes, fields: TaskFields
    ) -> None:
        self.queue, self.id, self.claim = queue, id, claim
        self.outcome: Outcome | None = None
        self.is_counted = False
        self.timeout: float | None = None
        self._backend, self._fields = backend, fields
        # None if its function was not found.
        self._task: AnyTask | None = None
        # The number of this attempt, from 1.
        self._count = 0
        # Whether the outcome is final, although the function may still run.
        self._is_given_up = False
        # Django's result, shared by the signals and the context. Created when it is first needed.
        self._result: AnyTaskResult | None = None
        # What the task raised.
        self._error: BaseException | None = None

    @property
    def is_imported(self) -> bool:
        """Whether the module of the task is imported."""
        module = sys.modules.get(self._fields[b"func"].decode(errors="replace").rpartition(".")[0])
        # While a thread imports it, another import waits for that thread.
        return module is not None and not getattr(module.__spec__, "_initializing", False)

    def prepare(self) -> None:
        """Find the task and its options. If that fails, the attempt has failed: `outcome` is set."""
        try:
            self._count = len(workers_of(self._fields)) - int(self._fields.get(b"earlier_attempts", 0))
            self._task = self._backend.task_of(self._fields, self.queue.name)
            self.timeout = self._backend.option(self._task, "timeout")
        except Exception as error:
            self._fail(error)

    @property
    def is_async(self) -> bool:
        """Whether the task belongs on the event loop."""
        return self._task is not None and inspect.iscoroutinefunction(self._task.func)

    def run(self) -> None:
        """Call a sync task, and set `outcome`. Raises only TaskTimedOut, if the runner interrupts it as it ends."""
        try:
            self._send_started()
            function, args, kwargs = self._call()
            self._succeed(function(*args, **kwargs))
        except TaskTimedOut as error:
            if not error.timeout_seconds:
                # The runner can raise only a class in this thread, so the limit is missing.
                TaskTimedOut.__init__(error, self.timeout or 0.0)
            self._fail(error)
        except BaseException as error:
            # Also SystemExit and KeyboardInterrupt: in a thread, they end only the task.
            self._fail(error)

    async def arun(self, *, is_cancelled: Callable[[], bool]) -> None:
        """
        Call an async task, and set `outcome`.

        Args:
            is_cancelled: Whether the worker cancels its tasks. Otherwise the function has cancelled its own.

        Raises:
            CancelledError: The worker has cancelled it. Not raised if the function returned all the same, or raised
                Retry or PermanentError.
        """
        try:
            if len(task_started.receivers) > 1:
                await sync_to_async(self._send_started)()
            else:
                self._send_started()
            function, args, kwargs = self._call()
            try:
                async with asyncio.timeout(self.timeout) as limit:
                    value = await function(*args, **kwargs)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise TaskTimedOut(self.timeout or 0.0) from error
            self._succeed(value)
        except BaseException as error:
            if is_cancelled() and not isinstance(error, (Retry, PermanentError)):
                # It was cut off, so this is no failure of the function.
                if not isinstance(error, asyncio.CancelledError):
                    logger.warning("the task %s raised an error when it was cancelled", self.id, exc_info=error)
                raise asyncio.CancelledError from error
            self._fail(error)

    def fail(self, error: BaseException) -> None:
        """End the attempt with an error that its function did not raise."""
        self._fail(error)

    def give_up(self, error: BaseException) -> None:
        """Fail for good while the function still runs. What it returns or raises later is ignored."""
        self._fail(error, may_retry=False)
        self._is_given_up = True

    @property
    def must_send_finished(self) -> bool:
        """Whether the task has finished, and the signal task_finished has something to do."""
        is_over = self.outcome is None or self.outcome.kind != "RETRY"
        return is_over and (self._error is not None or _has_receivers(task_finished))

    def send_finished(self) -> None:
        """Send the signal task_finished. Call it in a thread, after Redis has recorded the end."""
        if self._task is None:
            logger.error("the task %s has failed: %s", self.id, _describe(self._error))
            return
        try:
            result = self._django_result(self._task)
            self._set_end(result)
            if self._error is None:
                task_finished.send(type(self._backend), task_result=result)
                return
            try:
                raise self._error
            except BaseException:
                # Within `except`: Django's own receiver logs the exception that is being handled.
                task_finished.send(type(self._backend), task_result=result)
        except BaseException:
            # Also SystemExit, which would end the thread.
            logger.exception("a receiver of task_finished failed for the task %s", self.id)

    # ------------------------------------------------------------------------------------------------------------------

    def _call(self) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
        if self._task is None:
            raise TaskUnknown(f"the task {self.id} was not found")
        args, kwargs = call_of(self._fields)
        if self._task.takes_context:
            args = [TaskContext(task_result=self._django_result(self._task)), *args]
        return self._task.func, args, kwargs

    def _to_json(self, value: Any) -> bytes:
        try:
            return to_json(normalize_json(value))
        except (TypeError, ValueError) as error:
            path = self._fields[b"func"].decode(errors="replace")
            raise TypeError(
                f"what {path} returned is not JSON ({error}): return texts, numbers, lists and dicts"
            ) from error

    def _succeed(self, value: Any) -> None:
        if self._is_given_up:
            return
        try:
            body = self._to_json(value)
            if len(body) > (limit := self._backend.defaults.size_limit_bytes):
                raise PermanentError(
                    f"the task returned {len(body)} bytes of JSON, the limit is {limit}: store them, and return a key"
                )
        except TaskTimedOut:
            raise
        except Exception as error:
            # Another attempt would repeat the work of the function, and probably return the same.
            self._fail(error, may_retry=False)
        else:
            self.outcome = Outcome(self.id, self.claim, "SUCCESSFUL", body, 0)

    def _fail(self, error: BaseException, *, may_retry: bool = True) -> None:
        if self._is_given_up:
            return
        delay_seconds = self._delay_seconds(error) if may_retry else None
        kind = "FAILED" if delay_seconds is None else "RETRY"
        self._error = error
        self.outcome = Outcome(self.id, self.claim, kind, error_json(error), round((delay_seconds or 0.0) * 1000))
        if delay_seconds is not None:
            logger.warning(
                "the task %s failed, the next attempt is in %.1f s: %s", self.id, delay_seconds, _describe(error)
            )

    def _delay_seconds(self, error: BaseException) -> float | None:
        """The wait before the next attempt; None if there is none."""
        count = self._count
        if self._task is None or isinstance(error, PermanentError):
            return None
        if count >= self._backend.option(self._task, "max_attempts"):
            return None
        backoff = self._backend.option(self._task, "backoff")
        if isinstance(error, Retry) and not math.isnan(error.after_seconds):
            seconds = max(0.0, error.after_seconds)
        elif isinstance(backoff, Sequence):
            seconds = backoff[min(count, len(backoff)) - 1]
        else:
            seconds = min(backoff * 2.0 ** (count - 1), BACKOFF_LIMIT_SECONDS)
        return min(seconds, DELAY_LIMIT_SECONDS) * (1 + random.uniform(0, JITTER))  # noqa: S311 - keeps no secret

    # Django's signals and result --------------------------------------------------------------------------------------

    def _django_result(self, task: AnyTask) -> AnyTaskResult:
        if self._result is None:
            self._result = result_of(self.id, self._fields, task=task, backend=self._backend.alias)
        return self._result

    def _set_end(self, result: AnyTaskResult) -> None:
        """Set what `refresh` would read from Redis. The result of a lost task was read from there after its end."""
        if self.outcome is None:
            return
        status = TaskResultStatus(self.outcome.kind)
        if status == TaskResultStatus.FAILED:
            found = json.loads(self.outcome.body)
            result.errors.append(TaskError(exception_class_path=found["class"], traceback=found["traceback"]))
        else:
            object.__setattr__(result, "_return_value", json.loads(self.outcome.body))
        object.__setattr__(result, "status", status)
        object.__setattr__(result, "finished_at", timezone.now())

    def _send_started(self) -> None:
        if self._task is None or not _has_receivers(task_started):
            return
        try:
            task_started.send(type(self._backend), task_result=self._django_result(self._task))
        except TaskTimedOut:
            raise
        except Exception:
            logger.exception("a receiver of task_started failed for the task %s, which runs all the same", self.id)


def _describe(error: BaseException | None) -> str:
    """The class and the message of an error, even if its `__str__` raises."""
    return "".join(format_exception_only(error)).strip()


def _has_receivers(signal: Signal) -> bool:
    """Whether sending the signal has an effect. Django's own receiver only writes to its log, at level INFO."""
    return len(signal.receivers) > 1 or _django_logger.isEnabledFor(logging.INFO)
