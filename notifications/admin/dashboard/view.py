"""
The dashboard as a page, as a part of a page, as JSON and as CSV.

Owns these answers and who gets them. Does not own the figures (notifications.statistics), nor how they are shown
(sections, chart, the templates).
"""

from collections.abc import Iterable
from typing import Any, get_args

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.template.response import TemplateResponse
from django.urls import reverse

from notifications.admin.dashboard import chart
from notifications.admin.dashboard.counters import counter_tables
from notifications.admin.dashboard.export import as_csv, as_json
from notifications.admin.dashboard.links import Links
from notifications.admin.dashboard.sections import tables
from notifications.admin.history import HistoryAdmin
from notifications.admin.looks import HAS_UNFOLD
from notifications.admin.pages import AdminPage
from notifications.conf import STATISTICS_TOPIC
from notifications.inbox.page import nonce_of
from notifications.label import LABEL, admin_url_name, permission
from notifications.models import Delivery, Event
from notifications.statistics.dashboard import read_dashboard
from notifications.statistics.figures import Dashboard, Period
from realtime.conf import websocket_url

__all__ = ["dashboard_context", "statistics_view"]

_PERIODS: tuple[Period, ...] = get_args(Period.__value__)
_FORMATS = ("page", "part", "json", "csv")
_PAGE = "notifications/admin/statistics.html"
_PART = "notifications/admin/dashboard_part.html"


def statistics_view(request: HttpRequest, event_admin: "admin.ModelAdmin[Any]") -> HttpResponse:
    """
    Show the dashboard on a page of its own.

    `?period=` is "hour", "day" (the default) or "month". `?format=` is "page" (the default), "part" for what a live
    page refreshes, "json" for the fields of `notifications.statistics.figures.Dashboard`, and "csv" for all its tables
    in one. With `&table=` the CSV is one table as the page shows it. Other values are answered with 400 and the names.

    Raises:
        PermissionDenied: The user lacks the permission notifications.view_event.
    """
    if not event_admin.has_view_permission(request):
        raise PermissionDenied
    site: admin.AdminSite = event_admin.admin_site
    for parameter, names in (("period", _PERIODS), ("format", _FORMATS)):
        if request.GET.get(parameter, names[0]) not in names:
            return _unknown(parameter, names)
    asked = request.GET.get("format")
    if asked == "json":
        content = as_json(
            read_dashboard(_period(request)), with_errors=request.user.has_perm(permission("view_delivery"))
        )
        return HttpResponse(content, content_type="application/json")
    if asked == "csv":
        return _csv(request, site)
    context = dashboard_context(request, site)
    if asked == "part":
        return TemplateResponse(request, _PART, {"dashboard": context})
    request.current_app = site.name
    page = {
        "title": "Delivery statistics",
        "content_title": "Delivery statistics",
        "model_admin": event_admin,
        "media": event_admin.media,
        "dashboard": context,
    }
    return TemplateResponse(request, _PAGE, {**site.each_context(request), **page})


def dashboard_context(request: HttpRequest, site: admin.AdminSite) -> dict[str, Any]:
    """What the dashboard's templates need. The caller has checked the permission."""
    found = read_dashboard(_period(request))
    links = Links(request, site.name, since=found.rows.since)
    funnel, balances, *others = tables(found, links)
    return {
        "figures": found,
        "funnel": funnel,
        # Each with its figures as a table.
        "charts": [(drawn, chart.as_table(drawn, is_newest_first=True)) for drawn in _charts(found, links)],
        "balances": balances,
        "tables": others,
        "counters": counter_tables(found.counters),
        "is_counted_before": found.rows.counted_at < found.at,
        "periods": [(period, period == found.period) for period in _PERIODS],
        "url": reverse(f"{site.name}:{admin_url_name('event_statistics')}"),
        "topic": STATISTICS_TOPIC,
        "websocket_url": websocket_url(),
        "user_id": request.user.pk,
        # unfold has them in its sidebar.
        "pages": () if HAS_UNFOLD else _pages(request, site),
        "nonce": nonce_of(request),
    }


def _pages(request: HttpRequest, site: admin.AdminSite) -> list[AdminPage]:
    """The lists and pages of this app that the user may open."""
    apps = [app for app in site.get_app_list(request) if app["app_label"] == LABEL]
    lists = [
        AdminPage(name=str(model["name"]), url=model["admin_url"], icon="")
        for app in apps
        for model in app["models"]
        if model["admin_url"]
    ]
    further = [page for model in (Event, Delivery) for page in _further_pages(request, site, model)]
    return lists + further


def _further_pages(request: HttpRequest, site: admin.AdminSite, model: type[Event | Delivery]) -> list[AdminPage]:
    model_admin = site.get_model_admin(model) if site.is_registered(model) else None
    return model_admin.pages(request) if isinstance(model_admin, HistoryAdmin) else []


def _period(request: HttpRequest) -> Period:
    asked = request.GET.get("period")
    return next((period for period in _PERIODS if period == asked), "day")


def _charts(found: Dashboard, links: Links) -> list[chart.Chart]:
    drawn = [chart.draw_notifications(found.rows.points, found.period, links)]
    if found.rows.transports:
        drawn.append(chart.draw_deliveries(found.rows.points, found.period, links))
    return drawn


def _unknown(parameter: str, names: Iterable[str]) -> HttpResponse:
    return HttpResponseBadRequest(f"There is no {parameter} of this name. There are: {', '.join(names)}.", "text/plain")


def _csv(request: HttpRequest, site: admin.AdminSite) -> HttpResponse:
    found = read_dashboard(_period(request))
    links = Links(request, site.name, since=found.rows.since)
    drawn = [chart.as_table(each) for each in _charts(found, links)]
    every = {table.name: table for table in (*tables(found, links), *drawn, *counter_tables(found.counters))}
    name = request.GET.get("table", "")
    if name and name not in every:
        return _unknown("table", every)
    content = as_csv([every[name]] if name else list(every.values()), is_single=bool(name))
    file = f"notifications-{name or 'statistics'}-{found.period}-{found.at:%Y%m%dT%H%M%SZ}.csv"
    return HttpResponse(
        content,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{file}"'},
    )
