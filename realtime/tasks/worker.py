"""
TaskWorker: runs the tasks of some queues, in one process.

Owns the path of a task from its entry on the stream to its outcome in Redis. Does not own the stream worker (streams),
threads (runner), nor what an attempt does (attempt).
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence

import redis.asyncio

from realtime.conf import keys
from realtime.redis import clients
from realtime.redis.batcher import Batcher
from realtime.redis.outage import REDIS_ERRORS, Outage
from realtime.statistics import count
from realtime.streams import Entry, StreamWorker
from realtime.tasks.attempt import Attempt
from realtime.tasks.backend import RedisStreamBackend
from realtime.tasks.record import item_of
from realtime.tasks.runner import AHEAD_LIMIT, FETCH_LIMIT, Runner
from realtime.tasks.store import ACKED, GROUP, LOST, RECORDED, Begun, TaskQueue

__all__ = ["TaskWorker"]

logger = logging.getLogger(__name__)

# The limit of attempts of the stream worker, which is never reached: begin.lua counts the workers that died.
NO_LIMIT = 1_000_000
# Tasks with which two workers died begin one by one, at least this long apart unless the one before has ended. So a
# task that kills its process does not use up the last attempt of another one.
SUSPECT_SECONDS = 10.0
# How long giving back the tasks that still run at the deadline may take.
RELEASE_SECONDS = 2.0


class TaskWorker:
    """
    Runs the tasks of some queues until it is stopped.

    Args:
        backend: The backend whose tasks it runs.
        queues: The names of the queues.
        concurrency: How many tasks run at a time.
        consumer: The name of this worker, unique among all that are alive; see `TaskResult.worker_ids`.
        url: Where Redis is.
        outage: The state of Redis, shared by all its users in the process.
    """

    def __init__(
        self,
        backend: RedisStreamBackend,
        queues: Sequence[str],
        *,
        concurrency: int,
        consumer: str,
        url: str,
        outage: Outage | None = None,
    ) -> None:
        self.consumer = consumer
        self._backend = backend
        self._outage = outage or Outage("Redis")
        self._client = clients.async_publisher(url)
        self._runner = Runner(concurrency, on_done=self._record, on_given_back=self._give_back)
        self._queues = {name: self._make_queue(backend.queue(name), url) for name in dict.fromkeys(queues)}
        # The queues in the order in which they may fetch next.
        self._turns = deque(self._queues.values())

    async def run(self) -> None:
        """
        Work until `stop()`. Can be called once.

        Raises:
            ExceptionGroup: A defect of this module.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, queue in self._queues.items():
                    tasks.create_task(queue.run(), name=f"tasks of {name}")
        finally:
            await self._runner.close()
            await self._client.aclose()

    async def wait_ready(self) -> None:
        """Wait until all queues are read."""
        for queue in self._queues.values():
            await queue.worker.wait_ready()

    async def stop(self, *, deadline_seconds: float = 5.0) -> None:
        """
        Fetch nothing more, and let running tasks finish. Tasks that have not begun are given back at once. At the
        deadline, running tasks are given back too. Idempotent.
        """
        await asyncio.gather(*(queue.worker.stop(deadline_seconds=deadline_seconds) for queue in self._queues.values()))

    # For the runner ---------------------------------------------------------------------------------------------------

    def _room(self, _: int) -> int:
        """How many more tasks a queue may fetch. All queues share the threads, so its own count does not matter."""
        unfinished_count = sum(queue.worker.unfinished_count for queue in self._queues.values())
        return self._runner.room(unfinished_count, sum(queue.worker.ending_count for queue in self._queues.values()))

    def _share_room(self) -> None:
        """Tasks have ended: let the queues fetch others. Each time another queue comes first."""
        for queue in self._turns:
            queue.worker.ask_for_room()
        self._turns.rotate()

    def _record(self, attempts: Sequence[Attempt]) -> None:
        for name, of_queue in _by_queue(attempts).items():
            self._queues[name].record(of_queue)
        self._share_room()

    def _give_back(self, attempts: Sequence[Attempt]) -> None:
        for name, of_queue in _by_queue(attempts).items():
            self._queues[name].give_back(of_queue)

    def _make_queue(self, queue: TaskQueue, url: str) -> "_Queue":
        return _Queue(
            queue,
            clients.async_reader(url),
            redis=self._client,
            backend=self._backend,
            runner=self._runner,
            room=self._room,
            on_ended=self._share_room,
            consumer=self.consumer,
            outage=self._outage,
        )


class _Call:
    """
    One call of the handler.

    Attributes:
        left_count: How many of its tasks are not done.
        done: Set when all are done.
    """

    def __init__(self, count: int) -> None:
        self.left_count = count
        self.done = asyncio.Event()

    def count_down(self) -> None:
        """One more is done."""
        self.left_count -= 1
        if not self.left_count:
            self.done.set()


# The outcome of an attempt → what is counted.
_COUNTED = {"SUCCESSFUL": "tasks.successful", "FAILED": "tasks.failed", "RETRY": "tasks.retried"}


class _Queue:
    """The tasks of one queue that this worker holds. The arguments are those of the TaskWorker."""

    def __init__(
        self,
        queue: TaskQueue,
        reader: redis.asyncio.Redis,
        *,
        redis: redis.asyncio.Redis,
        backend: RedisStreamBackend,
        runner: Runner,
        room: Callable[[int], int],
        on_ended: Callable[[], None],
        consumer: str,
        outage: Outage,
    ) -> None:
        self._queue, self._reader, self._client = queue, reader, redis
        self._backend, self._runner, self._on_ended = backend, runner, on_ended
        self._consumer, self._outage = consumer, outage
        # The attempts that are not done, each with its entry and the call of the handler that got the entry.
        self._held: dict[Attempt, tuple[Entry, _Call]] = {}
        # Those of them that will not run here; Redis has not confirmed yet that they are given back.
        self._given_back: set[Attempt] = set()
        # Set when nothing is recorded any more: the clients are about to be closed.
        self._is_over = False
        # Set when the newest call of `_begin` has ended.
        self._last_begun = asyncio.Event()
        self._last_begun.set()
        self._ends: Batcher[Attempt, None] = Batcher(self._write_ends, name=f"ends of tasks of {queue.name}")
        self._releases: Batcher[Attempt, None] = Batcher(self._write_releases, name=f"released tasks of {queue.name}")
        self.worker = StreamWorker(
            reader,
            queue.stream,
            GROUP,
            self._handle,
            redis=redis,
            registry_key=keys().streams(),
            waiting_list=queue.waiting_list,
            room=room,
            batch_size=FETCH_LIMIT,
            concurrency=runner.concurrency + AHEAD_LIMIT,
            lease_seconds=backend.defaults.lease_seconds,
            max_attempts=NO_LIMIT,
            suspect_seconds=SUSPECT_SECONDS,
            consumer=consumer,
            outage=outage,
            on_stop=runner.stop,
        )

    async def run(self) -> None:
        """Work until the worker is stopped."""
        try:
            await self.worker.run()
        finally:
            self._is_over = True
            self._ends.stop()
            self._releases.stop()
            await self._reader.aclose()

    def record(self, attempts: Sequence[Attempt]) -> None:
        """Write the outcomes of these attempts to Redis, unless this queue is over."""
        if self._is_over:
            # They have ended after the deadline, and other workers have their tasks.
            return
        self.worker.begin_end([self._held[attempt][0] for attempt in attempts if attempt in self._held])
        self._ends.add(attempts)

    def give_back(self, attempts: Sequence[Attempt]) -> None:
        """These attempts will not run here: give their tasks back to Redis, unless this queue is over."""
        if self._is_over:
            return
        self._given_back.update(attempts)
        self._releases.add(attempts)

    async def _handle(self, entries: Sequence[Entry]) -> None:
        """The handler of the stream worker. Returns when all tasks are done or given back."""
        # Entries without a task have only woken the worker.
        tasks = [(entry, task) for entry in entries if (task := _claim_of(entry, self._consumer)) is not None]
        try:
            held = await self._prepare(tasks)
        except asyncio.CancelledError:
            # The deadline has passed, and none of them has run.
            await self._release_in_time(unbegun=[(id, claim) for _, (id, _, claim) in tasks])
            raise
        if not held:
            return
        kept = {entry.id for _, entry in held}
        self.worker.finish_early([entry for entry in entries if entry.id not in kept])
        call = _Call(len(held))
        self._held.update({attempt: (entry, call) for attempt, entry in held})
        self._runner.submit([attempt for attempt, _ in held])
        try:
            await call.done.wait()
        except asyncio.CancelledError:
            # The deadline has passed: this process is about to end.
            await self._leave([attempt for attempt, _ in held if attempt in self._held])
            raise
        finally:
            for attempt, _ in held:
                self._held.pop(attempt, None)
                self._given_back.discard(attempt)

    async def _prepare(self, tasks: Sequence[tuple[Entry, tuple[str, bytes, bytes]]]) -> list[tuple[Attempt, Entry]]:
        """Begin these tasks. Returns the attempts that are to run, in the order of their tasks."""
        begun = await self._begin([task for _, task in tasks]) if tasks else []
        held: list[tuple[Attempt, Entry]] = []
        if lost_count := sum(state == "lost" for state, _ in begun):
            count("tasks.failed", lost_count, self._queue.name)
        for (entry, (id, _, claim)), (state, fields) in zip(tasks, begun, strict=True):
            if state == "over":
                continue
            attempt = Attempt(self._backend, self._queue, id, claim, fields)
            if attempt.is_imported:
                attempt.prepare()
            else:
                # In a thread, because an import may block the loop for long. Meanwhile, later calls may overtake it.
                await asyncio.to_thread(attempt.prepare)
            if state == "lost":
                self._runner.call(attempt.send_finished)
            else:
                held.append((attempt, entry))
        return held

    async def _begin(self, asked: Sequence[tuple[str, bytes, bytes]]) -> list[Begun]:
        """
        Begin tasks, as TaskQueue.begin does.

        Several calls may run at once, and Redis may answer a later one first. They return in the order in which they
        were made, so that a worker with one slot runs tasks in the order in which it took them.
        """
        before, begun = self._last_begun, asyncio.Event()
        self._last_begun = begun
        try:
            answers = await self._outage.until_done(self._queue.begin, self._client, self._consumer, asked)
            await before.wait()
        finally:
            begun.set()
        return answers

    async def _leave(self, attempts: Sequence[Attempt]) -> None:
        """
        Give back tasks that are not over, so that other workers run them.

        The attempts of those that still run here count as failed. Async ones are cancelled first, so that they do not
        run here and elsewhere at once; but what they run in threads goes on.
        """
        await self._runner.cancel()
        ended: list[Attempt] = []
        unbegun: list[tuple[str, bytes]] = []
        running: list[tuple[str, bytes]] = []
        for attempt in attempts:
            # A thread may set it at any moment.
            if attempt.outcome is not None:
                ended.append(attempt)
            else:
                (unbegun if attempt in self._given_back else running).append((attempt.id, attempt.claim))
        await self._release_in_time(ended=ended, unbegun=unbegun, running=running)
        if running:
            logger.warning("%d tasks of the queue %s were cut off by the deadline", len(running), self._queue.name)

    async def _release_in_time(
        self,
        *,
        unbegun: Sequence[tuple[str, bytes]],
        running: Sequence[tuple[str, bytes]] = (),
        ended: Sequence[Attempt] = (),
    ) -> None:
        """At the deadline: record what has ended, and give the rest back, unless that takes too long."""
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                # After an outage, `_write_ends` may not have recorded these.
                await self._finish(ended)
                await self._queue.release(self._client, unbegun)
                if failed_count := await self._queue.release(self._client, running, is_begun=True):
                    count("tasks.failed", failed_count, self._queue.name)
        except REDIS_ERRORS as error:
            self._outage.observer().failed(error)

    async def _write_ends(self, attempts: list[Attempt]) -> None:
        answers = await self._outage.until_done(self._finish, attempts)
        by_answer: dict[int, list[Attempt]] = {LOST: [], RECORDED: [], ACKED: []}
        for attempt, answer in zip(attempts, answers, strict=True):
            by_answer[answer].append(attempt)
            if answer == LOST:
                logger.warning(
                    "the task %s is another worker's now, was given back or was deleted, so its end here is not "
                    "recorded (it ended after the deadline of a stop, or this worker was held up for longer than its "
                    "lease)",
                    attempt.id,
                )
            elif attempt.must_send_finished:
                self._runner.call(attempt.send_finished)
        # These are not acked: if the worker that has the task now dies, the pending entry lets another one take over.
        self._end(by_answer[LOST], self.worker.leave_early)
        self._end(by_answer[RECORDED], self.worker.finish_early)
        self._end(by_answer[ACKED], self.worker.acked_early)

    async def _write_releases(self, attempts: list[Attempt]) -> None:
        claims = [(attempt.id, attempt.claim) for attempt in attempts]
        await self._outage.until_done(self._queue.release, self._client, claims)
        self._end(attempts, self.worker.finish_early)

    async def _finish(self, attempts: Sequence[Attempt]) -> list[int]:
        """Record how these attempts ended, as TaskQueue.finish does, and count each of those ends once."""
        outcomes = [attempt.outcome for attempt in attempts if attempt.outcome is not None]
        answers = await self._queue.finish(self._client, outcomes)
        recorded: Counter[str] = Counter()
        for attempt, outcome, answer in zip(attempts, outcomes, answers, strict=True):
            # At the deadline, two calls may record the same end.
            if answer != LOST and not attempt.is_counted:
                attempt.is_counted = True
                recorded[outcome.kind] += 1
        for kind, number in recorded.items():
            count(_COUNTED[kind], number, self._queue.name)
        return answers

    def _end(self, attempts: Sequence[Attempt], end: Callable[[Sequence[Entry]], None]) -> None:
        """Redis has answered for these attempts: end their entries by this call."""
        if not attempts:
            return
        ended = [found for attempt in attempts if (found := self._held.pop(attempt, None)) is not None]
        end([entry for entry, _ in ended])
        for _, call in ended:
            call.count_down()
        self._on_ended()


def _claim_of(entry: Entry, consumer: str) -> tuple[str, bytes, bytes] | None:
    """The id and the ticket of the task of an entry, and the claim of this delivery; None if it has no task."""
    item = item_of(entry.fields.get(b"item", b""))
    if item is None:
        return None
    return item.id, item.ticket, b"%s %s %d" % (consumer.encode(), entry.id, entry.attempt)


def _by_queue(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault(attempt.queue.name, []).append(attempt)
    return found
