"""The background task of the path *tasks*. Import it after `django.setup()`."""

from realtime.tasks.django_api import task

__all__ = ["nothing"]


@task
def nothing() -> None:
    """Do nothing."""
