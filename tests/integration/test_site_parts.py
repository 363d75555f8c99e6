"""Which processes `make run` and `manage.py run_signalbox` start."""

from typing import Any

import pytest

from realtime.development.site import BOT, TASK_WORKER, WEB, CannotRun, parts_of_the_project

pytestmark = pytest.mark.database_independent

OURS = "realtime.tasks.RedisStreamBackend"


@pytest.mark.parametrize(
    ("tasks", "workers"),
    [
        ({"default": {"BACKEND": OURS}}, [TASK_WORKER]),
        ({"default": {"BACKEND": OURS, "QUEUES": []}}, [f"{TASK_WORKER} --queues=default"]),
        (
            {"slow": {"BACKEND": OURS, "QUEUES": ["slow"]}, "any": {"BACKEND": OURS, "QUEUES": []}},
            [f"{TASK_WORKER} --backend=slow", f"{TASK_WORKER} --backend=any --queues=default"],
        ),
        ({"default": {"BACKEND": "tests.support.memory_tasks.MemoryBackend"}}, []),
        *[({"default": entry}, []) for entry in ({"BACKEND": "no.such.Backend"}, {"BACKEND": 7}, {}, None)],
        (None, []),
    ],
)
def test_each_backend_of_tasks_that_is_ours_has_a_worker(settings: Any, tasks: Any, workers: list[str]) -> None:
    """Beside the web server and the bot. What is wrong with another backend is for the system checks to say."""
    settings.TASKS = tasks
    parts = parts_of_the_project("127.0.0.1", 8000)
    assert [part.name for part in parts] == [WEB, BOT, *workers]
    assert [part.waiting for part in parts] == ["", "notifications", *("tasks" for _ in workers)]
    for part in parts[2:]:
        assert part.arguments == ["-m", "django", *part.name.split(), "--deadline=3"]
        assert part.reports_ready


def test_a_project_without_an_asgi_application_has_no_site(settings: Any) -> None:
    """It says what to set."""
    settings.ASGI_APPLICATION = None
    with pytest.raises(CannotRun, match="ASGI_APPLICATION is not set"):
        parts_of_the_project("127.0.0.1", 8000)
