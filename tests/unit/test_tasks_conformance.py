"""How the conformance suite checks a rule, and how a worker finds its tasks."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from django.utils.module_loading import import_string

from realtime.tasks.conformance import tasks
from realtime.tasks.conformance.base import Difference, Suite, rule
from realtime.tasks.django_api import DJANGO_TASKS, BaseTaskBackend, Task

IMMEDIATE = f"{DJANGO_TASKS}.backends.immediate.ImmediateBackend"


class OfSyncTasks(BaseTaskBackend):
    """It takes no async tasks, and none of the queue "default"."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError


class Example(Suite):
    """A suite with two rules, the first of which is broken."""

    _test_name = "test_broken[1]"

    @rule("A page")
    def test_broken(self) -> None:
        """Two and two are five."""
        assert 2 + 2 == 5, "it is four"

    @rule("A page")
    def test_kept(self) -> None:
        """Two and two are four."""

    @rule("A page", needs="retries")
    def test_of_a_capability(self) -> None:
        """A task is tried again."""
        raise AssertionError


def with_differences(differences: dict[str, Difference]) -> Example:
    class WithDifferences(Example):
        known_differences: ClassVar[Mapping[str, Difference]] = differences

    return WithDifferences()


def test_a_failure_says_which_rule_is_broken() -> None:
    """The rule and its source are notes of the error, which pytest shows below it."""
    with pytest.raises(AssertionError, match="it is four") as caught:
        Example().test_broken()
    assert caught.value.__notes__ == ["Rule: Two and two are five.\nSource: A page"]


@pytest.mark.parametrize("name", ["test_broken", "test_broken[1]"])
def test_a_known_difference_passes(name: str) -> None:
    """Of the whole test, or of one of its parameters."""
    with_differences({name: Difference(reason="arithmetic", shows="it is four")}).test_broken()


def test_a_known_difference_that_shows_otherwise_fails() -> None:
    """A rule that is broken in another way is a new fault."""
    with pytest.raises(AssertionError, match="it is four"):
        with_differences({"test_broken": Difference(reason="arithmetic", shows="it is six")}).test_broken()


def test_a_known_difference_that_is_gone_fails() -> None:
    """So the list of differences stays true."""
    suite = with_differences({"test_kept": Difference(reason="arithmetic", shows="")})
    with pytest.raises(pytest.fail.Exception, match="remove it from known_differences"):
        suite.test_kept()


def test_a_capability_that_is_missing_skips() -> None:
    """The reason names it, and says what it is."""
    with pytest.raises(pytest.skip.Exception, match=r"Example\.capabilities does not have 'retries': options max_att"):
        Example().test_of_a_capability()


def test_an_unknown_capability_is_an_error() -> None:
    """A typing mistake skips no test."""
    with pytest.raises(TypeError, match="retrys"):
        type("Mistaken", (Suite,), {"capabilities": {"retrys"}})


def test_a_worker_finds_a_task_by_its_path(settings: Any) -> None:
    """By the path that a store keeps, in a process that knows only the setting."""
    settings.TASKS = {"default": {"BACKEND": IMMEDIATE}}
    task = import_string(tasks.add.module_path)
    assert isinstance(task, Task)
    assert (task.func, task.backend) == (tasks.function("add"), "default")


def test_a_task_is_on_a_backend_that_takes_it(settings: Any) -> None:
    """The default one, else the first that does; a test chooses another."""
    sync = f"{OfSyncTasks.__module__}.{OfSyncTasks.__qualname__}"
    settings.TASKS = {
        "second": {"BACKEND": IMMEDIATE},
        "default": {"BACKEND": sync},
        "unused": {"BACKEND": sync, "QUEUES": ["other"]},
    }
    assert (tasks.add.backend, tasks.async_add.backend) == ("default", "second")
    with tasks.bound_to("second"):
        assert tasks.add.backend == "second"
    del settings.TASKS["second"]
    settings.TASKS = settings.TASKS.copy()
    with pytest.raises(AttributeError, match="no backend in TASKS takes the task 'async_add'"):
        _ = tasks.async_add


def test_an_unknown_task_is_no_attribute() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = tasks.unknown


def test_the_module_can_be_imported_with_any_setting() -> None:
    """No task is made before it is asked for; and a worker needs no pytest."""
    program = """
import sys
from django.conf import settings
settings.configure(TASKS={"other": {"BACKEND": "no.such.Backend"}})
from realtime.tasks.conformance import tasks
assert tasks.function("add")(1, b=2) == 3
assert "pytest" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
