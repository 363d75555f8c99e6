"""What is done to many at once, in Django's log of the admin: who, what, how many. Owns writing such a record."""

from typing import Any, cast

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest

from notifications.models import Delivery

__all__ = ["begin_record"]

SUBJECT_LIMIT = 200


def begin_record(request: HttpRequest, flag: int, subject: str, message: str) -> LogEntry:
    """
    Write down what the user does; whoever knows more of it later saves another `change_message`.

    Args:
        flag: Of django.contrib.admin.models: ADDITION, CHANGE or DELETION.
        subject: What it is done to.
    """
    return LogEntry.objects.create(
        user=cast(Any, request.user),
        content_type=ContentType.objects.get_for_model(Delivery),
        object_repr=subject[:SUBJECT_LIMIT],
        action_flag=flag,
        change_message=message,
    )
