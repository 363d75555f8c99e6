"""The models of realtime: none has a table."""

from typing import ClassVar

from django.db import models

__all__ = ["LogPipeline"]


class _NoRows(models.Manager["LogPipeline"]):
    def get_queryset(self) -> models.QuerySet["LogPipeline"]:
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
