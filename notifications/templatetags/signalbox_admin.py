"""
Tags of the dashboard's templates.

Owns finding the admin site and the user's permission, for the admin's first page, and what the templates cannot say
themselves. Does not own the dashboard (admin.dashboard).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django import template
from django.template.context import Context
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

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
    # A project may have registered another ModelAdmin later.
    read = getattr(event_admin, "dashboard", None)
    if read is None or not event_admin.has_view_permission(request):
        return None
    found: dict[str, Any] = read(request)
    return found


@register.filter
def with_code(sentence: str) -> SafeString:
    """The sentence, with what it has in backticks as code."""
    texts = sentence.split("`")
    return format_html_join(
        "", "{}", ((format_html("<code>{}</code>", each) if number % 2 else each,) for number, each in enumerate(texts))
    )


@register.filter
def beside(cells: Sequence[Any], headings: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each cell of a row with the heading of its column."""
    return zip(headings, cells, strict=True)
