"""
"Disconnect the selected users", an action for the admin of a project's users.

Owns the action, and adds it to each user admin that is registered before this module is imported. A user admin that is
registered later lists it by itself: `actions = [disconnect_users]`. Does not own how connections end (access).
"""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.sites import all_sites
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest

from realtime.access import USERS_LIMIT, disconnect
from realtime.exceptions import Unavailable

__all__ = ["disconnect_users"]


# Staff who may change users may deactivate them as well.
@admin.action(description="Disconnect the selected %(verbose_name_plural)s", permissions=["change"])
def disconnect_users(model_admin: Any, request: HttpRequest, queryset: QuerySet[Any]) -> None:
    """End all open connections of these users; those who are still signed in connect again by loading a page."""
    users = list(queryset.order_by()[: USERS_LIMIT + 1])
    if len(users) > USERS_LIMIT:
        text = f"Nobody was disconnected: at most {USERS_LIMIT} users can be disconnected at a time. Select fewer."
        model_admin.message_user(request, text, messages.ERROR)
        return
    try:
        process_count = disconnect(*(user.pk for user in users))
    except Unavailable as error:
        model_admin.message_user(request, f"Nobody was disconnected: {error}.", messages.ERROR)
        return
    for user in users:
        model_admin.log_change(request, user, "Disconnected.")
    noun = "user was" if len(users) == 1 else "users were"
    text = f"{len(users)} {noun} disconnected, in {process_count} web process{'' if process_count == 1 else 'es'}."
    model_admin.message_user(request, text, messages.SUCCESS)


def _add_to_admins() -> None:
    for site in all_sites:
        model_admin = site._registry.get(get_user_model())
        if model_admin is not None and disconnect_users not in (actions := model_admin.actions or ()):
            model_admin.actions = [*actions, disconnect_users]


_add_to_admins()
