"""
Several processes of one command: they are started, watched, started again when they die, and stopped together.

Owns the processes, the signals of their parent, and when to give up. Does not own what the processes do (the command)
nor what they do after a signal (service).
"""

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from django.db import connections

from realtime.development.part import CHECKED, Reports, is_part, report_ready
from realtime.embedded import children
from realtime.management.service import EXIT_SECONDS
from realtime.redis.backoff import Backoff

__all__ = ["PROCESSES_LIMIT", "ProcessesFailed", "WorkerProcesses", "available_cpus"]

logger = logging.getLogger(__name__)

PROCESSES_LIMIT = 256
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# How long to wait before a process that died is started again. The wait grows with each death in a row.
RESTART = Backoff(base_seconds=0.5, cap_seconds=30.0, sure_part=0.5)
# A process that was ready for this long did not die in a row with the one before it.
STABLE_SECONDS = 60.0
# After this many processes that died before they were ready, while no other one was ready, the command gives up.
START_LIMIT = 5
# The longest time until a report that a process is ready is seen.
POLL_SECONDS = 0.1
# A process ends itself EXIT_SECONDS after its deadline. This much later it is killed.
KILL_SECONDS = 2.0


class ProcessesFailed(Exception):
    """The processes cannot run, or did not end in order; the text says why."""


class WorkerProcesses:
    """
    Runs a management command in several processes.

    Args:
        arguments: The command line after `manage.py`. It runs a service (`ServiceCommand.run_service`).
        count: How many processes.
        deadline_seconds: After a signal, the work of a process may take this time to finish.

    Guarantees:
        When `run` has ended, so have all processes. If this process is killed, they get SIGTERM (on Linux).
    """

    def __init__(self, arguments: Sequence[str], *, count: int, deadline_seconds: float) -> None:
        self._command = [sys.executable, "-m", "django", *arguments]
        self._deadline_seconds = deadline_seconds
        self._reports = Reports()
        self._slots = [_Slot(number) for number in range(1, count + 1)]
        # How many processes in a row died before they were ready.
        self._failed_starts = 0
        # Whether any process was ever ready.
        self._has_run = False

    def run(self, *, on_ready: Callable[[], None]) -> None:
        """
        Run the processes until SIGTERM, Ctrl-C or SIGHUP. Call it in the main thread of a process without other ones.

        Args:
            on_ready: Called once, when all processes are ready.

        Raises:
            ProcessesFailed: They cannot start, or one did not end in order after the signal.
        """
        connections.close_all()
        with _Signals() as signals:
            try:
                is_announced = False
                while not (asked := signals.stops()):
                    self._look_after()
                    if not is_announced and all(slot.is_ready for slot in self._slots):
                        is_announced = True
                        on_ready()
                        if is_part():
                            report_ready()
                    signals.wait(self._pause_seconds())
            except BaseException:
                self._stop(signals)
                raise
            logger.info("%s: stopping %d processes", signal.Signals(asked[0]).name, len(self._running()))
            if not self._stop(signals):
                raise ProcessesFailed("not all processes have finished their work: other workers will run their tasks")

    # ------------------------------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Notice which processes are ready and which have died, and start those that are due."""
        missing = self._reports.missing()
        for slot in self._slots:
            if slot.process is not None and not slot.is_ready and slot.name not in missing:
                slot.is_ready = self._has_run = True
                self._failed_starts = 0
            if slot.process is not None and (code := slot.process.poll()) is not None:
                self._note_death(slot, code)
            if slot.process is None and time.monotonic() >= slot.due_at:
                self._start(slot)

    def _start(self, slot: "_Slot") -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(children.import_path()), CHECKED: "1"}
        slot.is_ready, slot.started_at = False, time.monotonic()
        try:
            with self._reports.expect(slot.name) as (pipe, more), _held_signals() as prepare:
                slot.process = subprocess.Popen(  # noqa: S603 - our own program
                    self._command,
                    env={**environment, **more},
                    pass_fds=(pipe,),
                    stdin=subprocess.DEVNULL,
                    # Ctrl-C must reach only this process, which then stops the others.
                    start_new_session=True,
                    preexec_fn=prepare,
                )
        except OSError as error:
            # The machine has no more processes or memory.
            self._wait_to_start(slot, f"cannot be started ({error})")

    def _note_death(self, slot: "_Slot", code: int) -> None:
        how = f"ended with code {code}" if code >= 0 else f"was ended by {_name_of(-code)}"
        pid = slot.process.pid if slot.process is not None else 0
        slot.process = None
        if code > 0 and not self._has_run:
            raise ProcessesFailed(f"{slot.name} (pid {pid}) {how} before it was ready: see its output above")
        if slot.is_ready and time.monotonic() - slot.started_at >= STABLE_SECONDS:
            slot.death_count = 0
        self._wait_to_start(slot, f"(pid {pid}) {how}")

    def _wait_to_start(self, slot: "_Slot", what: str) -> None:
        if not slot.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= START_LIMIT and not any(other.is_ready for other in self._running()):
                raise ProcessesFailed(
                    f"{slot.name} {what}: {self._failed_starts} processes in a row did not become ready, and none runs"
                )
        delay_seconds = RESTART.delay_seconds(slot.death_count)
        slot.death_count += 1
        slot.due_at = time.monotonic() + delay_seconds
        slot.is_ready = False
        logger.error("%s %s: starting another one in %.1f s", slot.name, what, delay_seconds)

    def _pause_seconds(self) -> float | None:
        """The time until there is something to do beside a signal; None if there is nothing."""
        now = time.monotonic()
        waits = [
            max(0.0, slot.due_at - now) if slot.process is None else POLL_SECONDS
            for slot in self._slots
            if not slot.is_ready
        ]
        return min(waits, default=None)

    def _running(self) -> list["_Slot"]:
        return [slot for slot in self._slots if slot.process is not None]

    def _stop(self, signals: "_Signals") -> bool:
        """End all processes within the deadline. Returns whether all of them have finished their work."""
        running = [slot.process for slot in self._running() if slot.process is not None]
        is_ready = {slot.process: slot.is_ready for slot in self._running()}
        for process in running:
            process.terminate()
        kill_at = time.monotonic() + self._deadline_seconds + EXIT_SECONDS + KILL_SECONDS
        signals.forget()
        while any(process.poll() is None for process in running):
            if signal.SIGINT in signals.stops():
                logger.error("a second Ctrl-C: ending all processes at once")
                kill_at = 0.0
            if time.monotonic() >= kill_at:
                for process in running:
                    process.kill()
                    process.wait()
                break
            signals.wait(max(0.0, kill_at - time.monotonic()))
        self._reports.close()
        for slot in self._slots:
            slot.process = None
        # One that was starting had nothing to finish, and no handler of signals.
        return all(
            process.returncode == 0 or (process.returncode == -signal.SIGTERM and not is_ready[process])
            for process in running
        )


class _Slot:
    """The place of one process, and of those that are started after it."""

    def __init__(self, number: int) -> None:
        self.name = f"process {number}"
        # None while it waits for its start.
        self.process: subprocess.Popen[bytes] | None = None
        self.is_ready = False
        # On the monotonic clock.
        self.started_at = 0.0
        self.due_at = 0.0
        # How many processes have died in a row.
        self.death_count = 0


class _Signals:
    """
    Collects the signals of this process. Python runs no handler in which anything could go wrong: the kernel's signal
    writes its number to a pipe, from which `wait` reads. So no signal is lost and none interrupts anything.
    """

    def __init__(self) -> None:
        # Those that ask to stop, in order.
        self._stops: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            # `nohup` lets a process ignore that its terminal was closed.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read_end)
        os.close(self._write_end)

    def wait(self, seconds: float | None) -> None:
        """Wait until there is a signal, also for the end of a child."""
        select.select([self._read_end], [], [], seconds)

    def stops(self) -> list[int]:
        """The signals so far that ask to stop."""
        with contextlib.suppress(BlockingIOError):
            self._stops += [number for number in os.read(self._read_end, 4096) if number in STOP_SIGNALS]
        return self._stops

    def forget(self) -> None:
        """Forget the signals that were read."""
        self._stops.clear()


@contextlib.contextmanager
def _held_signals() -> Iterator[Callable[[], None]]:
    """
    Hold signals back while a child is started. Yields its `preexec_fn`.

    Between fork and exec, the child would take a signal that is for the group of its parent as its parent does.
    """
    parent_pid = os.getpid()
    numbers = (*STOP_SIGNALS, signal.SIGCHLD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def prepare() -> None:
        signal.set_wakeup_fd(-1)
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        children.stop_with_parent(parent_pid)

    try:
        yield prepare
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
