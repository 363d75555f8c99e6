"""
The bell as a template tag: `{% load signalbox %}{% notification_bell %}` in any page of any project.

Owns the context of the bell's templates. Does not own the queries (inbox.queries) or the look (bell.css).
"""

import datetime
import json
from typing import Any

from django import template
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.shortcuts import resolve_url
from django.template.context import Context
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from notifications.database.clock import moment_of
from notifications.inbox import queries
from notifications.inbox.bell_texts import bell_texts, unread_label
from notifications.inbox.page import nonce_of
from notifications.label import LABEL
from realtime import conf

__all__ = ["inbox_url", "notification_bell", "safe_href", "websocket_url", "with_zone"]

register = template.Library()

register.filter("safe_href", queries.safe_href)
safe_href = queries.safe_href


@register.filter
def with_zone(value: Any) -> Any:
    """A time with its zone. With USE_TZ off it has none, and browsers would interpret it in the reader's zone."""
    return timezone.localtime(moment_of(value)) if isinstance(value, datetime.datetime) else value


@register.simple_tag
def websocket_url() -> str:
    """The URL of the WebSocket, for scripts that call `connect()` themselves; the bell has it already."""
    return conf.websocket_url()


@register.simple_tag
def inbox_url(name: str) -> str:
    """A URL of notifications.urls, whatever the label of the app is: `inbox`, `read`, …"""
    return reverse(f"{LABEL}:{name}")


@register.inclusion_tag("notifications/bell.html", takes_context=True)
def notification_bell(context: Context) -> dict[str, Any]:
    """
    The bell of `request.user`: the unread count and the newest notifications, live.

    It is empty for visitors who are not signed in, and on pages that are rendered without a request, such as 500.html.
    It needs the context processor `django.template.context_processors.request`. Use it once on a page. Its script and
    style sheet have the request's nonce, for a Content Security Policy that requires one.
    """
    # Django renders 500.html without a request, and the page of an error must not fail itself.
    request = context.get("request")
    user = getattr(request, "user", None)
    if request is None or user is None or not user.is_authenticated:
        return {"bell": None}
    try:
        reverse(f"{LABEL}:inbox")
    except NoReverseMatch as error:
        raise ImproperlyConfigured(
            'the bell needs the URLs of the inbox: add path("notifications/", include("notifications.urls")) to the '
            "urlpatterns of your project"
        ) from error
    # The tag's template has a separate context, so the values that its forms need are passed on.
    bell = queries.read_bell(user.pk)
    return {
        "bell": bell,
        "unread_label": unread_label(bell.unread),
        "texts": json.dumps(bell_texts(), ensure_ascii=False),
        "user_id": user.pk,
        "websocket_url": conf.websocket_url(),
        "sign_in_url": _sign_in_url(),
        "nonce": nonce_of(request),
        "csrf_token": context.get("csrf_token"),
        "next": request.get_full_path(),
    }


def _sign_in_url() -> str:
    """The URL of the login page; "" if LOGIN_URL names no view of the project, or is empty."""
    try:
        return resolve_url(settings.LOGIN_URL) if settings.LOGIN_URL else ""
    except NoReverseMatch:
        return ""
