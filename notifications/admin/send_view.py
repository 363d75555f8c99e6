"""
The page "Send notification": a form that calls notify() with the user as the actor.

Owns permissions, the admin log and the message afterwards. Does not own the form (send_form).
"""

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.auth import get_permission_codename, get_user_model
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html

from notifications.admin.looks import HAS_UNFOLD, AdminForm
from notifications.admin.send_form import SendNotificationForm
from notifications.label import admin_url_name, permission
from notifications.models import Event

__all__ = ["send_view"]

FIELDSETS: list[tuple[Any, dict[str, list[str]]]] = [
    (None, {"fields": ["recipients", "message"]}),
    ("Details", {"fields": ["title", "url", "kind"]}),
]


def send_view(request: HttpRequest, event_admin: "admin.ModelAdmin[Any]") -> HttpResponse:
    """
    Show the form, or send its notification.

    Raises:
        PermissionDenied: The user lacks the permission notifications.add_event.
    """
    if not request.user.has_perm(permission("add_event")):
        raise PermissionDenied
    site: admin.AdminSite = event_admin.admin_site
    form = SendNotificationForm(request.POST or None, admin_site=site, may_view_users=_may_view_users(request, site))
    if request.method == "POST" and form.is_valid():
        event = form.send(actor=request.user)
        if event is not None:
            return _sent(request, event_admin, event, len(form.cleaned_data["recipients"]))
    context = {
        **site.each_context(request),
        "title": "Send notification",
        "content_title": "Send notification",
        "model_admin": event_admin,
        "adminform": AdminForm(cast(Any, form), FIELDSETS, {}, (), model_admin=event_admin),
        "form": form,
        "has_unfold": HAS_UNFOLD,
        "media": event_admin.media + form.media,
    }
    request.current_app = site.name
    return TemplateResponse(request, "notifications/admin/send.html", context)


def _may_view_users(request: HttpRequest, site: admin.AdminSite) -> bool:
    """Whether the user may see users: this site's user admin decides, or the permission if there is none."""
    model = get_user_model()
    if site.is_registered(model):
        return bool(site.get_model_admin(model).has_view_permission(request))
    return request.user.has_perm(f"{model._meta.app_label}.{get_permission_codename('view', model._meta)}")


def _sent(request: HttpRequest, event_admin: "admin.ModelAdmin[Any]", event: Event, count: int) -> HttpResponse:
    """Log it, add a message, and redirect to the list of events if the user may see it."""
    event_admin.log_addition(request, event, [{"added": {"name": "notification", "object": f"{count} recipients"}}])
    site_name = event_admin.admin_site.name
    may_view = event_admin.has_view_permission(request)
    url = reverse(f"{site_name}:{admin_url_name('event_change')}", args=[event.pk])
    name = format_html('“<a class="sb-link" dir="auto" href="{}">{}</a>”', url, event) if may_view else None
    name = name or format_html('“<span dir="auto">{}</span>”', event)
    people = "1 recipient" if count == 1 else f"{count:,} recipients"
    if event.published_at is None:
        text = "{} is saved for {} and waits in the outbox. It is published when Redis is available again."
        messages.warning(request, format_html(text, name, people))
    else:
        messages.success(request, format_html("{} is on its way to {}.", name, people))
    return HttpResponseRedirect(
        reverse(f"{site_name}:{admin_url_name('event_changelist')}") if may_view else request.path
    )
