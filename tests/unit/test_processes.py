"""Several processes of one command: the options, and the signals of their parent."""

import os
import signal

import pytest
from django.core.management.base import CommandError, CommandParser

from realtime.management.commands.run_task_worker import Command
from realtime.management.processes import PROCESSES_LIMIT, _Signals, available_cpus


@pytest.fixture
def parser() -> CommandParser:
    found = Command().create_parser("manage.py", "run_task_worker")
    # As when it is called by code: errors are raised.
    found.called_from_command_line = False
    return found


@pytest.mark.parametrize(("arguments", "count"), [([], 1), (["--processes=3"], 3), (["--processes=auto"], None)])
def test_the_number_of_processes(parser: CommandParser, arguments: list[str], count: int | None) -> None:
    """One by default; "auto" for one for each CPU that this process may use."""
    assert parser.parse_args(arguments).processes == (count or available_cpus())
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", str(PROCESSES_LIMIT + 1)])
def test_what_is_no_number_of_processes(parser: CommandParser, text: str) -> None:
    """It says what is one."""
    with pytest.raises(CommandError, match=f'is not a number from 1 to {PROCESSES_LIMIT}, nor "auto"'):
        parser.parse_args([f"--processes={text}"])


def test_signals_are_collected_in_order() -> None:
    """None is lost, none interrupts, and those before and after are handled as before."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    with _Signals() as signals:
        signals.wait(0)
        assert signals.stops() == []
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT):
            os.kill(os.getpid(), number)
        signals.wait(10)
        assert signals.stops() == [signal.SIGTERM, signal.SIGINT]
        signals.forget()
        assert signals.stops() == []
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_nohup_is_respected() -> None:
    """A process that ignores the end of its terminal still does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            signals.wait(0)
            assert signals.stops() == []
    finally:
        signal.signal(signal.SIGHUP, before)
