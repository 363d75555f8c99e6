"""
`python -m benchmarks.tasks.client APP`: enqueues tasks of a library, and reads their results.

Owns the jobs: each is a line of JSON on stdin, and its answer a line on stdout. Does not own a library's calls, which
are in the module APP of this package:

- `ENQUEUE`: by name of the task, the call that enqueues it with a number; it returns a handle.
- `read_result(handle)`: the result of the task, or an exception if there is none.
- `enqueue_many(name, numbers)`, if its documentation has a way for many: enqueues them all.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.tasks.ledger import Ledger

__all__ = ["Client"]

# Of so many tasks enqueued the last part is timed: the first opens connections and loads scripts.
WARM_UP_SHARE = 0.1
# Of so many results, spread evenly over all tasks of a job, is looked whether they can be read.
RESULTS = 50
RESULT_SECONDS = 2.0
POLL_SECONDS = 0.01


class Client:
    """
    Does jobs with one library.

    Args:
        app: Its module.
        ledger: Where the time of enqueuing is noted.
    """

    def __init__(self, app: Any, ledger: Ledger) -> None:
        self._app = app
        self._ledger = ledger
        self._handles: dict[int, Any] = {}

    def one_by_one(self, task: str, start: int, count: int) -> dict[str, float]:
        """Enqueue as fast as it goes, one call each. Returns the rate."""
        enqueue: Callable[[int], Any] = self._app.ENQUEUE[task]
        enqueued_ns, handles = self._ledger.enqueued_ns, self._handles
        step, warm = max(1, count // RESULTS), start + round(count * WARM_UP_SHARE)
        begin = time.perf_counter()
        for number in range(start, start + count):
            if number == warm:
                begin = time.perf_counter()
            enqueued_ns[number] = time.monotonic_ns()
            handle = enqueue(number)
            if (number - start) % step == 0:
                handles[number] = handle
        seconds = time.perf_counter() - begin
        return {"per_second": (start + count - warm) / seconds}

    def many(self, task: str, start: int, count: int) -> dict[str, float]:
        """Enqueue in the way for many, if there is one. Returns the rate."""
        enqueue_many = getattr(self._app, "enqueue_many", None)
        if enqueue_many is None:
            return {}
        enqueue_many(task, range(start, start + 1))
        begin = time.perf_counter()
        enqueue_many(task, range(start + 1, start + count))
        return {"per_second": (count - 1) / (time.perf_counter() - begin)}

    def paced(self, task: str, start: int, count: int, every_seconds: float) -> dict[str, float]:
        """Enqueue one at a time, with pauses."""
        enqueue: Callable[[int], Any] = self._app.ENQUEUE[task]
        due = time.monotonic()
        for number in range(start, start + count):
            due += every_seconds
            time.sleep(max(0.0, due - time.monotonic()))
            self._ledger.enqueued_ns[number] = time.monotonic_ns()
            enqueue(number)
        return {}

    def results(self) -> dict[str, float]:
        """Look whether results can be read: each task returns its number. Returns the share that can."""
        deadline = time.monotonic() + RESULT_SECONDS
        read = sum(self._has_result(number, handle, deadline) for number, handle in self._handles.items())
        return {"share": read / max(1, len(self._handles))}

    def _has_result(self, number: int, handle: Any, deadline: float) -> bool:
        while True:
            try:
                if self._app.read_result(handle) == number:
                    return True
            except Exception:  # noqa: S110 - each library says in its own way that there is none yet
                pass
            # The last tasks may have ended while their results are still on their way.
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)


def main() -> None:
    """Do jobs until stdin ends."""
    app = importlib.import_module(f"benchmarks.tasks.{sys.argv[1]}")
    client = Client(app, Ledger.of_environment())
    for line in sys.stdin:
        job = json.loads(line)
        answer = getattr(client, job.pop("way"))(**job)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
