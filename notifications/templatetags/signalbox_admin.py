"""
The dashboard as a template tag, for the admin's first page.

Owns finding the admin site and the user's permission. Does not own the dashboard (admin.dashboard).
"""

from typing import Any

from django import template
from django.template.context import Context

from notifications.models import Event

register = template.Library()


@register.simple_tag(takes_context=True)
def admin_dashboard(context: Context) -> dict[str, Any] | None:
    """The context of dashboard.html; None if the user may not see it, or this is not a page of an admin site."""
    request = context.get("request")
    match = getattr(request, "resolver_match", None)
    site = getattr(getattr(match, "func", None), "admin_site", None)
    if site is None or not site.is_registered(Event):
        return None
    event_admin = site.get_model_admin(Event)
    if not event_admin.has_view_permission(request):
        return None
    context_of: dict[str, Any] = event_admin.dashboard(request)
    return context_of
