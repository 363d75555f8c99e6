"""
`python -m benchmarks.tasks.trial NAME THREADS…`: measures one backend with several numbers of threads.

Owns nothing that is kept: it prints a line for each number, from which those in contenders were chosen.
"""

import argparse
import dataclasses
import sys

from benchmarks.processes import BenchmarkError
from benchmarks.stage import Stage
from benchmarks.tasks.contenders import TASK_BACKENDS
from benchmarks.tasks.measuring import measure

__all__ = ["main"]

FIGURES = (
    "nothing_per_second",
    "sleep_per_second",
    "running_per_second",
    "far_nothing_per_second",
    "far_sleep_per_second",
    "worker_cpu_us",
    "p50_ms",
    "p99_ms",
    "lost",
    "doubled",
)


def main() -> None:
    """Measure each number in turn, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[name for name, backend in TASK_BACKENDS.items() if backend.threads])
    parser.add_argument("threads", type=int, nargs="+")
    parser.add_argument("--seconds", type=float, default=2.0, help="of work of each kind, about")
    parser.add_argument("--runs", type=int, default=1, help="of each number")
    options = parser.parse_args()
    sys.stdout.write(" ".join(["threads", *FIGURES]) + "\n")
    with Stage(users=1) as stage:
        for threads in options.threads * options.runs:
            backend = dataclasses.replace(TASK_BACKENDS[options.name], threads=threads, waiting_threads=threads)
            try:
                figures = measure(backend, stage, seconds=options.seconds, calls=200)
            except BenchmarkError as error:
                sys.stdout.write(f"{threads}: {error}\n")
            else:
                cells = (f"{figures[name]:>{len(name)},.1f}" for name in FIGURES if name in figures)
                sys.stdout.write(" ".join([f"{threads:>7}", *cells]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
