"""Tasks that the worker of the matrix imports."""

from realtime.tasks.django_api import TaskContext, task

__all__ = ["add", "fail_twice", "greet"]


@task
def add(left: int, right: int) -> int:
    """A sync task."""
    return left + right


@task
async def greet(name: str) -> str:
    """An async task."""
    return f"Grüezi {name}"


@task(takes_context=True)
def fail_twice(context: TaskContext) -> int:  # type: ignore[type-arg]
    """A task that succeeds in its third attempt."""
    if context.attempt < 3:
        raise ValueError("not yet")
    return context.attempt
