"""The page "Delivery statistics", and the same as JSON. Does not own the figures (notifications.statistics)."""

from typing import Any

import msgspec
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse

from notifications import statistics
from notifications.admin import chart
from notifications.label import admin_url_name, permission

__all__ = ["statistics_view"]


def statistics_view(request: HttpRequest, event_admin: "admin.ModelAdmin[Any]") -> HttpResponse:
    """
    Show the delivery statistics; with `?format=json`, the fields of `notifications.statistics.Statistics`.

    Raises:
        PermissionDenied: The user lacks the permission notifications.view_event.
    """
    if not event_admin.has_view_permission(request):
        raise PermissionDenied
    found = statistics.collect()
    if request.GET.get("format") == "json":
        return HttpResponse(msgspec.json.encode(_for_programs(found)), content_type="application/json")
    site: admin.AdminSite = event_admin.admin_site
    context = {
        **site.each_context(request),
        "title": "Delivery statistics",
        "content_title": "Delivery statistics",
        "model_admin": event_admin,
        "media": event_admin.media,
        "statistics": found,
        "figures": _figures(found),
        "chart": chart.draw(found.hours),
        "delivery_figures": _delivery_figures(found),
        "delivery_chart": chart.draw_deliveries(found.delivery_hours),
        "deliveries_url": _deliveries_url(request, site),
        "now": _now(found),
        "idle_groups": [group.name for group in found.redis.groups if not group.workers] if found.redis else [],
        "dead_letters_url": _dead_letters_url(request, site),
        "task_figures": _task_figures(found),
        "tasks_url": _tasks_url(request, site),
    }
    request.current_app = site.name
    return TemplateResponse(request, "notifications/admin/statistics.html", context)


def _for_programs(found: statistics.Statistics) -> dict[str, Any]:
    """The JSON of the page. Its name for the dead letters of a group is older than `GroupStatus`, and stays."""
    fields: dict[str, Any] = msgspec.to_builtins(found)
    for group in fields["redis"]["groups"] if fields["redis"] else ():
        group["dead_letters"] = group.pop("dead")
    return fields


def _dead_letters_url(request: HttpRequest, site: admin.AdminSite) -> str:
    """The URL of the dead letters; "" if the user may not see them."""
    may_view = request.user.has_perm(permission("view_dead_letters"))
    return reverse(f"{site.name}:{admin_url_name('delivery_dead_letters')}") if may_view else ""


def _deliveries_url(request: HttpRequest, site: admin.AdminSite) -> str:
    """The URL of the deliveries; "" if the user may not see them."""
    may_view = request.user.has_perm(permission("view_delivery"))
    return reverse(f"{site.name}:{admin_url_name('delivery_changelist')}") if may_view else ""


def _delivery_figures(found: statistics.Statistics) -> list[tuple[str, str, str]]:
    """The deliveries of all transports by their state, as (name, number, remark)."""
    total = sum(each.sent + each.failed + each.skipped + each.pending for each in found.deliveries)
    figures = []
    for name in ("sent", "failed", "skipped", "pending"):
        count = sum(getattr(each, name) for each in found.deliveries)
        figures.append((name, f"{count:,}", f"{count / total:.1%} of {total:,}" if total else ""))
    return figures


def _tasks_url(request: HttpRequest, site: admin.AdminSite) -> str:
    """The URL of the background tasks, which another app shows; "" if the user may not see them."""
    if not request.user.has_perm("realtime.view_task"):
        return ""
    try:
        return reverse(f"{site.name}:realtime_task_changelist")
    except NoReverseMatch:
        return ""


def _task_figures(found: statistics.Statistics) -> list[tuple[str, str, str]]:
    """The background tasks of all queues by their state, as (name, number, remark)."""
    queues = found.tasks or ()
    figures = []
    for name in ("ready", "scheduled", "running", "failed", "successful"):
        counts = [(each.queue, getattr(each, name)) for each in queues]
        remark = ", ".join(f"{queue} {count:,}" for queue, count in counts) if len(queues) > 1 else ""
        figures.append((name, f"{sum(count for _, count in counts):,}", remark))
    return figures


def _figures(found: statistics.Statistics) -> list[tuple[str, str, str]]:
    """The totals as (name, number, remark)."""
    totals = found.totals
    figures = [("created", f"{totals.created:,}", f"by {totals.events:,} events")]
    for name in ("published", "relayed", "seen", "read"):
        count = getattr(totals, name)
        share = f"{count / totals.created:.1%} of created" if totals.created else ""
        figures.append((name, f"{count:,}", share))
    if found.redis is None:
        figures.append(("dead letters", "unknown", "Redis is unavailable"))
    else:
        remark = ", ".join(f"{group.name} {group.dead:,}" for group in found.redis.groups)
        figures.append(("dead letters", f"{found.redis.failed:,}", remark))
    return figures


def _now(found: statistics.Statistics) -> list[tuple[str, str]]:
    """The current numbers of the outbox and of Redis, as (what, number)."""
    rows = [
        ("Events in the outbox", f"{found.totals.waiting:,}"),
        ("Events scheduled", f"{found.totals.scheduled:,}"),
    ]
    if found.redis is not None:
        rows += [
            ("Entries on the stream", f"{found.redis.stream_length:,}"),
            ("Requests of other programs accepted", f"{found.redis.ingress_accepted:,}"),
            ("Requests of other programs refused", f"{found.redis.ingress_refused:,}"),
            ("Requests of other programs dropped", f"{found.redis.ingress_dropped:,}"),
        ]
    return rows
