"""
RedisStreamBackend: the backend of Django's Tasks framework.

Owns enqueuing and reading results, and the OPTIONS of TASKS. Does not own the commands to Redis (store), the workers
(worker) nor waiting for results (waiting).
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils import timezone

from realtime.conf import async_redis, keys, sync_redis
from realtime.exceptions import TaskQueueFull, TasksUnavailable, TaskUnknown
from realtime.redis.outage import REDIS_ERRORS
from realtime.tasks.django_api import (
    AnyTask,
    AnyTaskResult,
    BaseTaskBackend,
    InvalidTask,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from realtime.tasks.record import EPOCH, TaskFields, find_task, moment, result_of, run_after_of, to_json
from realtime.tasks.store import Request, TaskQueue
from realtime.tasks.task import OPTIONS, RedisTask, check_options, unique_key_of
from realtime.tasks.waiting import await_result, wait

__all__ = ["QUEUE_RULE", "BackendOptions", "RedisStreamBackend", "is_queue_name"]

# The id of a task is its queue, a dot, and this many random bytes as hexadecimal digits: they cannot be guessed.
RANDOM_BYTES = 16
# A task that is about to be enqueued.
type _Prepared = tuple[AnyTaskResult, Request]
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,40}")
QUEUE_RULE = "has 1 to 40 letters, digits, '.', '_' and '-'"
# The most that a limit of the options may be: ten years in seconds, and 300 MB in bytes.
LONGEST = 3e8
# The latest time in milliseconds that can be a datetime in every time zone.
LATEST_MS = round(datetime(9999, 12, 30, tzinfo=UTC).timestamp() * 1000)
# A task may itself be what kills its workers: it fails when this many have died while they ran it.
DEATHS_LIMIT = 3


def is_queue_name(name: str) -> bool:
    """Whether a queue may have this name."""
    return _QUEUE.fullmatch(name) is not None


class BackendOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The OPTIONS of a backend in TASKS: defaults for the options of its tasks, and limits."""

    # As in RedisTask.
    max_attempts: int = 1
    backoff: float | list[float] = 1.0
    timeout: float | None = None
    enqueue_on_commit: bool = True
    run_again_if_lost: bool = True
    # How long a task is kept after it has finished.
    keep_successful_seconds: float = 86_400.0
    keep_failed_seconds: float = 7 * 86_400.0
    # The most bytes of the arguments of a task, and of its return value, as JSON.
    size_limit_bytes: int = 262_144
    # The most tasks of a queue that may wait: beyond it, `enqueue` raises TaskQueueFull.
    length_limit: int = 1_000_000
    # A worker that has not renewed its lease for this long counts as dead: others run its tasks again.
    lease_seconds: float = 30.0


class RedisStreamBackend(BaseTaskBackend):
    """
    Keeps tasks in Redis, on a stream for each queue; `manage.py run_task_worker` runs them::

        TASKS = {"default": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": ["default", "mail"]}}

    Guarantees:
        A task that was enqueued runs at least once, as long as Redis keeps its data. It ends as SUCCESSFUL or FAILED,
        whatever its function does. It fails if its function cannot be found.
    """

    task_class = RedisTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, dict(params))
        # What is wrong with TASKS, or "". Not raised here: backends are created when modules declare tasks, which would
        # then fail to import. The system check E009 reports it, and `enqueue` raises it.
        self.problem = ""
        self.defaults = BackendOptions()
        try:
            self.defaults = msgspec.convert(dict(self.options), BackendOptions)
            check_options({**msgspec.structs.asdict(self.defaults), "unique_key": None})
            _check_limits(self.defaults)
        except (msgspec.ValidationError, InvalidTask, TypeError, ValueError) as error:
            self.problem = f'TASKS["{alias}"]["OPTIONS"]: {str(error).rstrip(".")}'
        if isinstance(params.get("QUEUES"), str):
            self.problem = f'TASKS["{alias}"]["QUEUES"] is a text: write a list, such as ["{params["QUEUES"]}"]'
        for name in self.queues:
            if not is_queue_name(str(name)):
                self.problem = f'TASKS["{alias}"]["QUEUES"] has {name!r}: the name of a queue {QUEUE_RULE}'
        self._queues: dict[str, TaskQueue] = {}

    def queue(self, name: str) -> TaskQueue:
        """The commands to Redis of a queue."""
        names = keys()
        found = self._queues.get(name)
        if found is None or found.stream != names.task_queue(name):
            found = self._queues[name] = TaskQueue(
                names,
                name,
                keep_successful_seconds=self.defaults.keep_successful_seconds,
                keep_failed_seconds=self.defaults.keep_failed_seconds,
            )
        return found

    # Django's methods -------------------------------------------------------------------------------------------------

    def validate_task(self, task: AnyTask) -> None:
        """As Django's; also checks the options of RedisTask. Raises InvalidTask."""
        super().validate_task(task)
        if not self.queues and not is_queue_name(task.queue_name):
            raise InvalidTask(f"Queue {task.queue_name!r} is not valid: the name of a queue {QUEUE_RULE}.")
        if isinstance(task, RedisTask):
            check_options({name: getattr(task, name) for name in OPTIONS})

    def enqueue(  # type: ignore[override]
        self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AnyTaskResult:
        """
        Enqueue a task, now or when the transaction is committed.

        Returns:
            The task, READY. If an unfinished task has the same unique key, the result has the id of that task.

        Raises:
            InvalidTask, TypeError, ValueError: The task or its arguments are not valid; says why.
            TaskQueueFull: Too many tasks wait.
            TasksUnavailable: Redis did not confirm it. With `enqueue_on_commit`, the commit raises this.
            ImproperlyConfigured: The entry of the backend in TASKS is not valid.
        """
        result, request = self._prepare(task, args, kwargs)
        if self._waits_for_commit(task):
            transaction.on_commit(lambda: self._enqueue(result, request))
        else:
            self._enqueue(result, request)
        return result

    async def aenqueue(  # type: ignore[override]
        self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AnyTaskResult:
        """
        The async twin of `enqueue`. It enqueues at once: async code has no transaction of its own, and cannot see the
        transaction of a thread that calls it by `async_to_sync`.
        """
        result, request = self._prepare(task, args, kwargs)
        try:
            found = await self.queue(task.queue_name).aenqueue(async_redis(), request)
        except REDIS_ERRORS as error:
            raise _unavailable(task, error) from error
        if _note_enqueued(result, *found):
            await task_enqueued.asend(type(self), task_result=result)
        return result

    def enqueue_many(self, calls: Iterable[tuple[AnyTask, Sequence[Any], Mapping[str, Any]]]) -> list[AnyTaskResult]:
        """
        Enqueue many tasks, in few round trips to Redis. Each is enqueued as by `enqueue`.

        Args:
            calls: The task, the arguments and the keyword arguments of each.

        Returns:
            The tasks, in the same order.

        Raises:
            As `enqueue`. If a task or its arguments are not valid, none is enqueued. After any other error, some may
            have been enqueued.
        """
        prepared = self._prepare_many(calls)
        now = [each for each in prepared if not self._waits_for_commit(each[0].task)]
        later = [each for each in prepared if self._waits_for_commit(each[0].task)]
        if later:
            transaction.on_commit(lambda: self._enqueue_many(later))
        self._enqueue_many(now)
        return [result for result, _ in prepared]

    async def aenqueue_many(
        self, calls: Iterable[tuple[AnyTask, Sequence[Any], Mapping[str, Any]]]
    ) -> list[AnyTaskResult]:
        """The async twin of `enqueue_many`. As `aenqueue`, it enqueues at once."""
        prepared = self._prepare_many(calls)
        full: dict[str, int] = {}
        for name, of_queue in _by_queue(prepared).items():
            try:
                answers = await self.queue(name).aenqueue_many(async_redis(), [request for _, request in of_queue])
            except REDIS_ERRORS as error:
                raise _unavailable(of_queue[0][0].task, error) from error
            for result in _noted(of_queue, answers):
                await task_enqueued.asend(type(self), task_result=result)
            full[name] = answers.count(None)
        _check_full(full, len(prepared))
        return [result for result, _ in prepared]

    def prepare_tick(
        self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any], moment: datetime
    ) -> tuple[AnyTaskResult, Request]:
        """The result and the request of a periodic task at a tick, for `TaskQueue.atick`. Raises as `enqueue` does."""
        return self._prepare(task.using(run_after=moment), args, kwargs)

    async def note_tick(self, result: AnyTaskResult, found: tuple[str, int]) -> None:
        """Complete the result of a tick after `TaskQueue.atick`; send task_enqueued unless the unique key was taken."""
        if _note_enqueued(result, *found):
            await task_enqueued.asend(type(self), task_result=result)

    def get_result(self, result_id: str) -> AnyTaskResult:
        """
        Read the result of a task.

        Raises:
            TaskResultDoesNotExist: There is no such task, it has expired, or its function cannot be found.
            TasksUnavailable: Redis did not answer.
        """
        queue = self._queue_of(result_id)
        try:
            fields: Any = sync_redis().hgetall(queue.task_key(result_id))
        except REDIS_ERRORS as error:
            raise TasksUnavailable(f"the task {result_id} cannot be read ({error!r}): try again later") from error
        return self._result(result_id, queue, fields)

    async def aget_result(self, result_id: str) -> AnyTaskResult:
        """The async twin of `get_result`."""
        queue = self._queue_of(result_id)
        try:
            fields: Any = await async_redis().hgetall(queue.task_key(result_id))
        except REDIS_ERRORS as error:
            raise TasksUnavailable(f"the task {result_id} cannot be read ({error!r}): try again later") from error
        return self._result(result_id, queue, fields)

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """The system check E010. Django also calls it where the checks of `realtime` do not run."""
        if apps.is_installed("realtime"):
            return []
        problem = f'TASKS["{self.alias}"] is a {type(self).__name__}, but INSTALLED_APPS has no "realtime".'
        hint = 'Add "realtime": it has `manage.py run_task_worker`, without which no task runs.'
        return [Error(problem, hint=hint, id="realtime.E010")]

    # Beyond Django ----------------------------------------------------------------------------------------------------

    def wait(self, result: AnyTaskResult, timeout: float | None = None) -> AnyTaskResult:
        """As `realtime.tasks.wait`."""
        return wait(result, timeout)

    async def await_result(
        self,
        result: AnyTaskResult,
        timeout: float | None = None,  # noqa: ASYNC109 - a twin
    ) -> AnyTaskResult:
        """As `realtime.tasks.await_result`."""
        return await await_result(result, timeout)

    def task_of(self, fields: TaskFields, queue_name: str) -> AnyTask:
        """
        The task of a call, with its priority and queue.

        Raises:
            TaskUnknown: Its function cannot be found.
        """
        task = find_task(fields[b"func"].decode())
        changes: dict[str, Any] = {
            "priority": int(fields[b"priority"]),
            "queue_name": queue_name,
            "backend": self.alias,
            "run_after": run_after_of(fields),
        }
        if isinstance(task, RedisTask) and (fields[b"options"] != b"{}" or task.json_options()):
            found = json.loads(fields[b"options"])
            changes |= {name: _tupled(found.get(name)) for name in OPTIONS if not callable(getattr(task, name))}
        changed = {name: value for name, value in changes.items() if getattr(task, name) != value}
        return replace(task, **changed) if changed else task

    def _prepare(self, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[AnyTaskResult, Request]:
        if self.problem:
            raise ImproperlyConfigured(self.problem)
        self.validate_task(task)
        result: AnyTaskResult = TaskResult(
            task=task,
            id=f"{task.queue_name}.{secrets.token_hex(RANDOM_BYTES)}",
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        call = to_json([result.args, result.kwargs])
        if len(call) > self.defaults.size_limit_bytes:
            raise ValueError(
                f"the arguments of {task.module_path} are {len(call)} bytes of JSON, the limit is "
                f"{self.defaults.size_limit_bytes}: store them, and pass a key"
            )
        options = task.json_options() if isinstance(task, RedisTask) else {}
        fields: dict[str, bytes | int | str] = {
            "func": task.module_path,
            "call": call,
            "options": to_json(options),
            "deaths_limit": DEATHS_LIMIT if self.option(task, "run_again_if_lost") else 1,
        }
        unique_key = unique_key_of(task, result.args, result.kwargs) if isinstance(task, RedisTask) else ""
        limit, due_ms = self.defaults.length_limit, 0
        if task.run_after is not None:
            due_us = _microseconds(task.run_after)
            fields["run_after"] = due_us
            # Rounded up: a task never runs before its time.
            due_ms = min(max(0, -(-due_us // 1000)), LATEST_MS)
        return result, Request(result.id, due_ms, task.priority, unique_key, limit, fields)

    def option(self, task: AnyTask, name: str) -> Any:
        """An option of a task, or the backend's default if the task does not set it."""
        value = getattr(task, name, None)
        return getattr(self.defaults, name) if value is None else value

    def _waits_for_commit(self, task: AnyTask) -> bool:
        return bool(self.option(task, "enqueue_on_commit")) and transaction.get_connection().in_atomic_block

    def _enqueue(self, result: AnyTaskResult, request: Request) -> None:
        try:
            found = self.queue(result.task.queue_name).enqueue(sync_redis(), request)
        except REDIS_ERRORS as error:
            raise _unavailable(result.task, error) from error
        if _note_enqueued(result, *found):
            task_enqueued.send(type(self), task_result=result)

    def _prepare_many(self, calls: Iterable[tuple[AnyTask, Sequence[Any], Mapping[str, Any]]]) -> list[_Prepared]:
        prepared: list[_Prepared] = []
        for task, args, kwargs in calls:
            if task.backend != self.alias:
                raise InvalidTask(
                    f"{task.module_path} is a task of the backend {task.backend!r}, not of {self.alias!r}: "
                    f'call task_backends["{task.backend}"].enqueue_many().'
                )
            prepared.append(self._prepare(task, args, kwargs))
        return prepared

    def _enqueue_many(self, prepared: Sequence[_Prepared]) -> None:
        full: dict[str, int] = {}
        for name, of_queue in _by_queue(prepared).items():
            try:
                answers = self.queue(name).enqueue_many(sync_redis(), [request for _, request in of_queue])
            except REDIS_ERRORS as error:
                raise _unavailable(of_queue[0][0].task, error) from error
            for result in _noted(of_queue, answers):
                task_enqueued.send(type(self), task_result=result)
            full[name] = answers.count(None)
        _check_full(full, len(prepared))

    def _queue_of(self, id: str) -> TaskQueue:
        name, _, random = str(id).rpartition(".")
        is_ours = name in self.queues if self.queues else is_queue_name(name)
        if not is_ours or not (random.isascii() and random.isalnum()):
            raise TaskResultDoesNotExist(id)
        return self.queue(name)

    def _result(self, id: str, queue: TaskQueue, fields: TaskFields) -> AnyTaskResult:
        if not fields:
            raise TaskResultDoesNotExist(id)
        try:
            task = self.task_of(fields, queue.name)
        except TaskUnknown as error:
            raise TaskResultDoesNotExist(f"{id}: {error}") from error
        return result_of(id, fields, task=task, backend=self.alias)


def _check_limits(options: BackendOptions) -> None:
    """
    Raises:
        InvalidTask: Names the option and what it may be.
    """
    names = ("keep_successful_seconds", "keep_failed_seconds", "lease_seconds", "size_limit_bytes", "length_limit")
    for name in names:
        value = getattr(options, name)
        if not 0 < value <= LONGEST:
            raise InvalidTask(f"{name} is {value!r}: it must be a number greater than 0, and at most {LONGEST:g}.")


def _note_enqueued(result: AnyTaskResult, id: str, enqueued_ms: int) -> bool:
    """Complete a result. Returns False if it is that of an earlier task with the same unique key."""
    is_new = result.id == id
    object.__setattr__(result, "id", id)
    object.__setattr__(result, "enqueued_at", moment(enqueued_ms))
    return is_new


def _by_queue(prepared: Sequence[_Prepared]) -> dict[str, list[_Prepared]]:
    found: dict[str, list[_Prepared]] = {}
    for each in prepared:
        found.setdefault(each[0].task.queue_name, []).append(each)
    return found


def _noted(prepared: Sequence[_Prepared], answers: Sequence[tuple[str, int] | None]) -> list[AnyTaskResult]:
    """Complete the results of `TaskQueue.enqueue_many`. Returns those of new tasks."""
    pairs = zip(prepared, answers, strict=True)
    return [result for (result, _), answer in pairs if answer is not None and _note_enqueued(result, *answer)]


def _check_full(full: Mapping[str, int], count: int) -> None:
    """
    Args:
        full: For each queue, how many tasks it did not take.
        count: How many tasks there were.

    Raises:
        TaskQueueFull: Some were not enqueued.
    """
    names = [name for name, refused in full.items() if refused]
    if names:
        raise TaskQueueFull(
            f"{sum(full.values())} of {count} tasks were not enqueued, because these queues have reached their "
            f"length_limit of waiting tasks: {', '.join(names)}; do workers run for them?"
        )


def _unavailable(task: AnyTask, error: Exception) -> TasksUnavailable:
    return TasksUnavailable(
        f"Redis did not confirm the task {task.module_path} ({type(error).__name__}: {error}): it may have been "
        "enqueued; enqueue it again later if it may run twice, or give it a unique_key"
    )


def _microseconds(moment: datetime) -> int:
    """A time in microseconds since 1970. A naive one, possible if USE_TZ is False, is in settings.TIME_ZONE."""
    aware = timezone.make_aware(moment, timezone.get_default_timezone()) if timezone.is_naive(moment) else moment
    return (aware - EPOCH) // timedelta(microseconds=1)


def _tupled(value: Any) -> Any:
    """An option read from JSON, with a tuple for a list as in RedisTask."""
    return tuple(value) if isinstance(value, list) else value
