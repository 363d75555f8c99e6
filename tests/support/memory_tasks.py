"""
A task backend in memory, with workers in threads: what the conformance suite is tried on.

Owns a backend that keeps all rules, and faults, each of which breaks one: tests see the suite find it. Does not own
a use outside of tests.
"""

import asyncio
import contextlib
import itertools
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from traceback import format_exception
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from realtime.tasks.django_api import (
    AnyTask,
    AnyTaskResult,
    BaseTaskBackend,
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_enqueued,
    task_finished,
    task_started,
)

__all__ = ["MemoryBackend", "MemoryTask", "PlainBackend", "Worker", "enqueue_every", "worker_of"]

TICK_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTask(Task):
    """A task with the options that the suite knows."""

    max_attempts: int = 1
    backoff: Any = 0
    timeout: float | None = None
    unique_key: Any = None
    enqueue_on_commit: bool = False

    def using(self, **options: Any) -> "MemoryTask":
        """Return a new task, as Django's does."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})


@dataclass(kw_only=True, eq=False)
class Record:
    """A task that was enqueued; its values are JSON, as in a store of another process."""

    number: int
    id: str
    path: str
    options: dict[str, Any]
    arguments: str
    key: str | None
    due: datetime | None
    status: TaskResultStatus = TaskResultStatus.READY
    times: dict[str, datetime | None] = field(default_factory=dict)
    errors: list[TaskError] = field(default_factory=list)
    worker_ids: list[str] = field(default_factory=list)
    value: str = "null"


class Store:
    """The records of one backend, for all threads."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.records: dict[str, Record] = {}
        self.numbers = itertools.count()

    def take(self, worker_id: str, faults: set[str]) -> Record | None:
        """Claim the next task, or return None if there is none."""
        with self.changed:
            ready = [
                record
                for record in self.records.values()
                if record.status == TaskResultStatus.READY
                and (record.due is None or record.due <= timezone.now() or "runs_early" in faults)
            ]
            if not ready:
                self.changed.wait(TICK_SECONDS)
                return None
            sign = -1 if "last_in_first_out" in faults else 1
            by_priority = "no_priority" not in faults
            record = min(ready, key=lambda each: (-each.options["priority"] * by_priority, sign * each.number))
            now = timezone.now()
            record.status = TaskResultStatus.RUNNING
            record.times = {**record.times, "last_attempted_at": now}
            record.times.setdefault("started_at", now)
            record.worker_ids = [*record.worker_ids, "the same" if "one_worker_id" in faults else worker_id]
            return record


_stores: dict[str, Store] = {}


class MemoryBackend(BaseTaskBackend):
    """Option `store` names the records; `faults` are the rules to break."""

    task_class = MemoryTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.faults = set(self.options.get("faults", ()))
        self.store = _stores.setdefault(self.options["store"], Store())

    def enqueue(self, task: AnyTask, args: Any, kwargs: Any) -> AnyTaskResult:
        if "never_validates" not in self.faults:
            self.validate_task(task)
        options = {each.name: getattr(task, each.name) for each in fields(task) if each.name != "func"}
        if "loses_priority" in self.faults:
            options["priority"] = 0
        if "takes_anything" in self.faults:
            args, kwargs = json.loads(json.dumps([args, kwargs], default=str))
        arguments = self._encoded([list(normalize_json(args)), normalize_json(kwargs)])
        key = options["unique_key"]
        record = Record(
            number=next(self.store.numbers),
            id=str(uuid.uuid4()) * (2 if "long_ids" in self.faults else 1),
            path=task.module_path,
            options=options,
            arguments=arguments,
            key=str(key(*args, **kwargs)) if callable(key) else key,
            due=task.run_after,
            times={"enqueued_at": timezone.now()},
        )
        with self.store.changed:
            for other in self.store.records.values():
                if "forgets_keys" in self.faults:
                    break
                if record.key is not None and other.key == record.key and not self._result_of(other).is_finished:
                    return self._result_of(other)
        result = self._result_of(record, task)
        if options["enqueue_on_commit"] and "forgets_the_transaction" not in self.faults:
            transaction.on_commit(lambda: self._add(record, result))
        else:
            self._add(record, result)
        return self._result_of(record, task)

    def get_result(self, result_id: str) -> AnyTaskResult:
        with self.store.changed:
            record = self.store.records.get(result_id)
            if record is None:
                raise TaskResultDoesNotExist(result_id)
            return self._result_of(record)

    def wait(self, result: AnyTaskResult, timeout: float) -> AnyTaskResult:
        """Block until the task has finished."""

        def finished() -> bool:
            found = self.store.records.get(result.id)
            return found is not None and found.status in (TaskResultStatus.SUCCESSFUL, TaskResultStatus.FAILED)

        with self.store.changed:
            if not self.store.changed.wait_for(finished, timeout) and "waits_in_vain" not in self.faults:
                raise TimeoutError(f"{result.id} has not finished")
        return self.get_result(result.id)

    async def await_result(self, result: AnyTaskResult, seconds: float) -> AnyTaskResult:
        """The async twin."""
        return await sync_to_async(self.wait, thread_sensitive=False)(result, seconds)

    def _encoded(self, value: Any) -> str:
        if "floats_only" in self.faults:
            return json.dumps(json.loads(json.dumps(value), parse_int=float))
        if "empty_lists_are_objects" in self.faults:
            return json.dumps(value).replace("[]", "{}")
        return json.dumps(value)

    def _add(self, record: Record, result: AnyTaskResult) -> None:
        with self.store.changed:
            self.store.records[record.id] = record
            if "runs_twice" in self.faults:
                again = replace(record, id=str(uuid.uuid4()), number=next(self.store.numbers))
                self.store.records[again.id] = again
            self.store.changed.notify_all()
        if "no_signal" not in self.faults:
            task_enqueued.send(self if "wrong_sender" in self.faults else type(self), task_result=result)

    def _result_of(self, record: Record, task: AnyTask | None = None) -> AnyTaskResult:
        args, kwargs = json.loads(record.arguments)
        if task is None:
            task = MemoryTask(func=import_string(record.path).func, **record.options)
        result: AnyTaskResult = TaskResult(
            task=task,
            id=record.id,
            status=record.status,
            enqueued_at=record.times.get("enqueued_at"),
            started_at=record.times.get("started_at"),
            last_attempted_at=record.times.get("last_attempted_at"),
            finished_at=record.times.get("finished_at"),
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[*record.errors],
            worker_ids=[*record.worker_ids],
        )
        object.__setattr__(result, "_return_value", json.loads(record.value))
        return result


class PlainBackend(MemoryBackend):
    """It supports nothing that a backend may leave out."""

    supports_defer = supports_async_task = supports_get_result = supports_priority = False

    def get_result(self, result_id: str) -> AnyTaskResult:
        return BaseTaskBackend.get_result(self, result_id)


class Worker(threading.Thread):
    """Runs one task after another until it is stopped, or killed: what it does then is lost."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.worker_id = uuid.uuid4().hex
        super().__init__(name=f"memory-worker-{self.worker_id}", daemon=True)
        self.backend = backend
        self.store = backend.store
        self.is_stopping = self.is_dead = False
        self._record: Record | None = None

    def run(self) -> None:
        while not self.is_stopping:
            record = self._record = self.store.take(self.worker_id, self.backend.faults)
            if record is not None:
                try:
                    self._run(record)
                except BaseException:
                    if "errors_end_the_worker" in self.backend.faults:
                        return
                    raise
                finally:
                    connections.close_all()

    def stop(self) -> None:
        """Let it finish its task."""
        self.is_stopping = True
        if not self.is_dead:
            self.join()

    def die(self) -> None:
        """Act as if it was killed. Its lease ends at once."""
        with self.store.changed:
            self.is_dead = self.is_stopping = True
            if self._record is not None and "buries_tasks_with_workers" not in self.backend.faults:
                self._record.status = TaskResultStatus.READY
                self.store.changed.notify_all()

    def _run(self, record: Record) -> None:
        error: BaseException | None = None
        value = "null"
        try:
            task = self.backend._result_of(record).task
        except ImportError as missing:
            if "forgets_lost_functions" not in self.backend.faults:
                self._finish(record, TaskResultStatus.FAILED, missing)
            return
        task_started.send(type(self.backend), task_result=self.backend._result_of(record))
        try:
            value = self.backend._encoded(normalize_json(self._call(task, record)))
        except BaseException as raised:
            if "errors_end_the_worker" in self.backend.faults and not isinstance(raised, Exception):
                raise
            error = raised
        if self.is_dead:
            return
        if error is not None and len(record.worker_ids) < task.max_attempts:
            self._try_again(record, task, error)
            return
        if value == "null" and "none_is_nothing" in self.backend.faults and error is None:
            return
        record.value = value
        status = TaskResultStatus.SUCCESSFUL if error is None else TaskResultStatus.FAILED
        self._finish(record, status, error)
        task_finished.send(type(self.backend), task_result=self.backend._result_of(record))

    def _finish(self, record: Record, status: TaskResultStatus, error: BaseException | None) -> None:
        with self.store.changed:
            if error is not None:
                record.errors = [*record.errors, _described(error)]
            record.times = {**record.times, "finished_at": timezone.now()}
            record.status = status
            self.store.changed.notify_all()

    def _try_again(self, record: Record, task: AnyTask, error: BaseException) -> None:
        backoff = task.backoff
        seconds = backoff[len(record.errors)] if isinstance(backoff, list) else backoff
        if "finishes_each_attempt" in self.backend.faults:
            task_finished.send(type(self.backend), task_result=self.backend._result_of(record))
        with self.store.changed:
            if "forgets_errors" not in self.backend.faults:
                record.errors = [*record.errors, _described(error)]
            record.due = timezone.now() + timedelta(seconds=seconds)
            record.status = TaskResultStatus.READY

    def _call(self, task: AnyTask, record: Record) -> Any:
        result = self.backend._result_of(record)
        context = [TaskContext(task_result=result)] if task.takes_context else []
        if "sync_on_the_loop" in self.backend.faults and not asyncio.iscoroutinefunction(task.func):

            async def call() -> Any:
                return task.func(*context, *result.args, **result.kwargs)

            return async_to_sync(call)()
        if task.timeout is None or "no_time_limit" in self.backend.faults:
            return task.call(*context, *result.args, **result.kwargs)
        return _in_time(lambda: task.call(*context, *result.args, **result.kwargs), task.timeout)


@contextlib.contextmanager
def worker_of(backend: BaseTaskBackend) -> Iterator[Worker]:
    """Run a worker."""
    assert isinstance(backend, MemoryBackend)
    worker = Worker(backend)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


@contextlib.contextmanager
def enqueue_every(seconds: float, task: AnyTask, *args: Any) -> Iterator[None]:
    """Enqueue a task again and again."""
    stopped = threading.Event()

    def repeat() -> None:
        while not stopped.wait(seconds):
            task.enqueue(*args)

    thread = threading.Thread(target=repeat, name="enqueues-again")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _described(error: BaseException) -> TaskError:
    cls = type(error)
    path = f"{cls.__module__}.{cls.__qualname__}"
    return TaskError(exception_class_path=path, traceback="".join(format_exception(error)))


def _in_time(call: Callable[[], Any], seconds: float) -> Any:
    """Call in a thread, which is left alone after so many seconds."""
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(call()), name="with-a-time-limit")
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"the task did not end within {seconds} s")
    return outcome[0]
