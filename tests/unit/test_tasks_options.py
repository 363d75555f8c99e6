"""The options of tasks and of their backend: what is refused, and what the error says."""

import copy
import math
import pickle
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from realtime.tasks import RedisStreamBackend, RedisTask
from realtime.tasks.backend import BackendOptions
from realtime.tasks.django_api import InvalidTask, task
from tests.support.tasks_of_tests import add, context_of

WRONG: list[tuple[str, Any]] = [
    *(("max_attempts", value) for value in (0, -1, 101, 1.5, "3", True, math.nan)),
    *(("backoff", value) for value in (-1, math.nan, math.inf, "1", b"12", [], [1, -1], [1, "2"], True, [None])),
    *(("timeout", value) for value in (0, -1, math.nan, math.inf, "1", True)),
    *(("unique_key", value) for value in (7, ["a"], b"a")),
    *(("enqueue_on_commit", value) for value in ("no", 0, [])),
    *(("run_again_if_lost", value) for value in ("no", 1, math.nan)),
]
GOOD: list[tuple[str, Any]] = [
    *(("max_attempts", value) for value in (1, 100)),
    *(("backoff", value) for value in (0, 1.5, [0], (1, 2.5), 1e300)),
    *(("timeout", value) for value in (0.001, 86_400)),
    *(("unique_key", value) for value in ("", "{a}", True, False, str)),
    *((name, value) for name in ("enqueue_on_commit", "run_again_if_lost") for value in (True, False)),
]
WRONG_OPTIONS: list[tuple[str, Any]] = [
    *((name, value) for name, value in WRONG if name != "unique_key"),
    *(
        (name, value)
        for name in ("keep_successful_seconds", "keep_failed_seconds", "lease_seconds", "size_limit_bytes")
        for value in (0, -1, math.nan, math.inf, "1", 1e12, None)
    ),
    ("max_attempt", 3),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_an_option_that_is_not_valid_is_refused(name: str, value: Any) -> None:
    """When the task is made, not when it runs; the error names the option."""
    with pytest.raises(InvalidTask, match=f"{name} is "):
        add.using(**{name: value})
    with pytest.raises(InvalidTask, match=f"{name} is "):
        task(add.func, **{name: value})


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_an_option_that_is_valid_is_kept(name: str, value: Any) -> None:
    """By `using`, and further `using`."""
    changed = add.using(**{name: value}).using(priority=3)
    assert getattr(changed, name) == (tuple(value) if isinstance(value, list) else value)
    assert changed.priority == 3
    assert getattr(add, name) is None


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="'max_attempt'"):
        add.using(max_attempt=3)
    with pytest.raises(TypeError):
        task(add.func, max_attempt=3)


def test_a_task_can_be_copied_and_pickled() -> None:
    """With its options, and as the same function."""
    changed = context_of.using(max_attempts=3, backoff=[1, 2], unique_key="{name}", priority=7)
    for other in (copy.copy(changed), copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):  # noqa: S301 - its own
        assert isinstance(other, RedisTask)
        assert other == changed


@pytest.mark.parametrize(("name", "value"), WRONG_OPTIONS)
def test_an_option_of_the_backend_that_is_not_valid_is_a_problem(name: str, value: Any) -> None:
    """It says where it stands in the settings."""
    backend = RedisStreamBackend("some", {"OPTIONS": {name: value}})
    assert backend.problem.startswith('TASKS["some"]["OPTIONS"]: ')
    assert name in backend.problem


def test_the_options_of_the_backend_are_the_defaults_of_tasks() -> None:
    backend = RedisStreamBackend("some", {"OPTIONS": {"max_attempts": 3, "timeout": 5, "backoff": [1, 2]}})
    assert backend.defaults == BackendOptions(max_attempts=3, timeout=5, backoff=[1, 2])
    assert RedisStreamBackend("some", {}).queues == {"default"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--queues", "nobody"], "there is no queue 'nobody'; queues: default, mail"),
        (["--queues", "mail,no one,x"], "there is no queue 'no one' and no queue 'x'"),
        (["--queues", " , "], "there is no name in it"),
        (["--backend", "nobody"], "nobody"),
        (["--concurrency", "0"], "'0' is not a number from 1 to 1000"),
        (["--concurrency", "１"], "is not a number from 1 to 1000"),
        (["--deadline", "nan"], "'nan' is not a number of seconds from 0 to 86400"),
        (["--deadline", "-1"], "'-1' is not a number of seconds from 0 to 86400"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments: list[str], text: str) -> None:
    """In one line, before it asks Redis for anything."""
    with pytest.raises(CommandError) as caught:
        call_command("run_task_worker", *arguments)
    assert text in str(caught.value)


def test_the_command_needs_a_backend_of_its_own(settings: Any) -> None:
    """And the names of queues where the backend takes any."""
    settings.TASKS = {
        "default": {"BACKEND": "django.tasks.backends.immediate.ImmediateBackend"},
        "any": {"BACKEND": "realtime.tasks.RedisStreamBackend", "QUEUES": []},
    }
    with pytest.raises(CommandError, match="ImmediateBackend, which has no worker here"):
        call_command("run_task_worker")
    with pytest.raises(CommandError, match="name those of this worker by --queues"):
        call_command("run_task_worker", "--backend", "any")
    with pytest.raises(CommandError, match="'a b' is no queue: its name has 1 to 40"):
        call_command("run_task_worker", "--backend", "any", "--queues", "good,a b")
