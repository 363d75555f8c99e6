"""The background task of the path *tasks*. Imported when Django is set up."""

from realtime.tasks.django_api import task

__all__ = ["nothing"]


@task
def nothing() -> None:
    """Do nothing."""
