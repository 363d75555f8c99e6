"""Entries in Django's admin log for actions on many objects at once. Owns writing them."""

from typing import Any, cast

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest

from notifications.models import Delivery

__all__ = ["begin_record"]

SUBJECT_LIMIT = 200


def begin_record(request: HttpRequest, flag: int, subject: str, message: str) -> LogEntry:
    """
    Log an action before it is done. The caller updates `change_message` afterwards.

    Args:
        flag: ADDITION, CHANGE or DELETION from django.contrib.admin.models.
        subject: The objects of the action, as text.
    """
    return LogEntry.objects.create(
        user=cast(Any, request.user),
        content_type=ContentType.objects.get_for_model(Delivery),
        object_repr=subject[:SUBJECT_LIMIT],
        action_flag=flag,
        change_message=message,
    )
