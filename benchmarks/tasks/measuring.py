"""
How one backend of background tasks is measured.

Owns the order of a run and its figures. Near its server: tasks that do nothing are enqueued, then a worker is started
and works them off; then single tasks come with pauses; then as many as one process can enqueue while the worker runs.
Another worker works off tasks that sleep. A third worker runs both kinds, 2 ms away from its server. Does not own the
list (contenders) nor the processes (ground).
"""

import time
from dataclasses import dataclass
from typing import Self

from benchmarks.processes import free_port
from benchmarks.stage import Stage
from benchmarks.tasks.contenders import TaskBackend
from benchmarks.tasks.ground import Ground, WorkerProcess, ground
from benchmarks.tasks.ledger import Ledger
from benchmarks.workers import WARM_UP_SHARE, wait_for

__all__ = ["measure"]

# Of the tasks that are enqueued for a second of work, at least so many.
FEWEST = 10
# Single tasks for an idle worker.
EVERY_SECONDS = 0.02
FEWEST_SINGLE = 10
# The figures that are added up over all parts.
_COUNTS = ("tasks", "lost", "doubled")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Which tasks are for what, by their numbers."""

    nothing: range
    sleep: range
    single: range
    running: range

    @classmethod
    def of(cls, nothing: int = 0, sleep: int = 0, single: int = 0, running: int = 0) -> Self:
        """So many of each, one kind after the other."""
        first, second, third = nothing, nothing + sleep, nothing + sleep + single
        return cls(
            nothing=range(first),
            sleep=range(first, second),
            single=range(second, third),
            running=range(third, third + running),
        )

    @property
    def count(self) -> int:
        """All of them."""
        return self.running.stop


def measure(backend: TaskBackend, stage: Stage, *, seconds: float, calls: int) -> dict[str, float]:
    """Let it work for about so many seconds on each kind of task; each task is to be run once."""
    paces = backend.paces
    nothing = _Plan.of(
        nothing=_tasks(paces.nothing, seconds),
        single=max(FEWEST_SINGLE, calls // 2),
        running=_tasks(paces.nothing, seconds / 2),
    )
    parts = [(_nothing, nothing), (_sleep, _Plan.of(sleep=_tasks(paces.sleep, seconds)))]
    if backend.is_far_too:
        far = _Plan.of(nothing=_tasks(paces.far_nothing, seconds), sleep=_tasks(paces.far_sleep, seconds))
        parts.append((_far, far))
    figures: dict[str, float] = dict.fromkeys(_COUNTS, 0)
    for measure_part, plan in parts:
        with ground(backend, stage, plan.count) as on:
            found = measure_part(on, plan)
        counts = {name: figures[name] + found[name] for name in _COUNTS}
        figures |= found | counts
    return figures


def _tasks(pace: int, seconds: float) -> int:
    return max(FEWEST, round(pace * seconds))


def _nothing(on: Ground, plan: _Plan) -> dict[str, float]:
    client, ledger = on.client, on.ledger
    figures = {"enqueued_per_second": client.one_by_one("nothing", plan.nothing)}
    with on.worker() as worker:
        figures["worker_cpu_us"] = _cpu_us(worker, ledger, plan.nothing)
        client.paced("nothing", plan.single, every_seconds=EVERY_SECONDS)
        _wait(ledger, plan.single)
        client.one_by_one("nothing", plan.running)
        _wait(ledger, plan.running)
        figures["results_share"] = client.results()
    many = client.many("nothing", plan.nothing)
    if many is not None:
        figures["many_enqueued_per_second"] = many
    waits = ledger.waits_ms(plan.single) or [0.0]
    return figures | {
        "nothing_per_second": _rate(ledger, plan.nothing),
        "running_per_second": _rate(ledger, plan.running, is_from_enqueuing=True),
        "p50_ms": waits[len(waits) // 2],
        "p99_ms": waits[len(waits) * 99 // 100],
        **_counts(ledger),
    }


def _sleep(on: Ground, plan: _Plan) -> dict[str, float]:
    on.client.one_by_one("sleep", plan.sleep)
    with on.worker(is_waiting=True) as worker:
        worker.wait_for_first(on.ledger)
        _wait(on.ledger, plan.sleep)
    return {"sleep_per_second": _rate(on.ledger, plan.sleep), **_counts(on.ledger)}


def _far(on: Ground, plan: _Plan) -> dict[str, float]:
    ledger, port = on.ledger, free_port()
    on.client.one_by_one("nothing", plan.nothing)
    on.client.one_by_one("sleep", plan.sleep)
    with on.proxy(port) as proxy, on.worker(is_waiting=True, port=port) as worker:
        worker.wait_for_first(ledger)
        cpu, begin = proxy.cpu_seconds(), time.monotonic()
        end = _wait(ledger, plan.sleep)
        proxy_core_used = (proxy.cpu_seconds() - cpu) / max(end - begin, 1e-6)
    return {
        "far_nothing_per_second": _rate(ledger, plan.nothing),
        "far_sleep_per_second": _rate(ledger, plan.sleep),
        "proxy_core_used": proxy_core_used,
        **_counts(ledger),
    }


def _wait(ledger: Ledger, numbers: range) -> float:
    """Until these and all before them have run, or nothing is run any more; returns when that was."""
    return wait_for(numbers.stop, ledger.done_count, None)


def _cpu_us(worker: WorkerProcess, ledger: Ledger, numbers: range) -> float:
    """What the worker takes for each of these tasks, its start not counted; waits until they have run."""
    worker.wait_for_first(ledger)
    wait_for(round(len(numbers) * WARM_UP_SHARE), ledger.done_count, None)
    cpu, done = worker.cpu_seconds(), ledger.done_count()
    _wait(ledger, numbers)
    return (worker.cpu_seconds() - cpu) * 1e6 / max(1, ledger.done_count() - done)


def _rate(ledger: Ledger, numbers: range, *, is_from_enqueuing: bool = False) -> float:
    """Tasks a second, from the first one's beginning, or when it was enqueued, to the last one's end."""
    since = ledger.enqueued_ns if is_from_enqueuing else ledger.begun_ns
    return ledger.done_count(numbers) / max(ledger.seconds_of(numbers, since), 1e-6)


def _counts(ledger: Ledger) -> dict[str, float]:
    done = ledger.done_count()
    return {"tasks": ledger.count, "lost": ledger.count - done, "doubled": ledger.doubled_count()}
