"""The models of realtime: none has a table."""

from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

__all__ = ["LogPipeline", "Task"]


class _NoRows(models.Manager[Any]):
    def get_queryset(self) -> models.QuerySet[Any]:
        # Never asks the database.
        return super().get_queryset().none()


class LogPipeline(models.Model):
    """
    Gives the admin's page "Log pipeline" a place in the index, and the permission realtime.view_logpipeline.

    There are no rows.
    """

    objects: ClassVar[_NoRows] = _NoRows()

    class Meta:
        managed = False
        # Commands such as dumpdata use the base manager, which must not ask the database either.
        base_manager_name = "objects"
        default_permissions = ("view",)
        verbose_name = verbose_name_plural = "log pipeline"

    def __str__(self) -> str:
        return "log pipeline"


class Task(models.Model):
    """
    Gives the admin's pages of background tasks a place in the index, and the permissions realtime.view_task, to see
    them, realtime.change_task, to run them again, and realtime.delete_task, to discard them.

    There are no rows: tasks are in Redis.
    """

    objects: ClassVar[_NoRows] = _NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions = ("view", "change", "delete")
        verbose_name = _("task")
        verbose_name_plural = _("tasks")

    def __str__(self) -> str:
        return "task"
