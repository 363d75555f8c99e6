"""Tasks that a worker process and a test both know."""

from pathlib import Path

from realtime.tasks.django_api import task

__all__ = ["read_file"]


@task
def read_file(path: str, password: str = "") -> str:
    """Fails until there is a file."""
    return Path(path).read_text()
