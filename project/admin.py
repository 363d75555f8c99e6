"""
The admin site of this project: django-unfold's looks under a Content-Security-Policy, with the pages of notifications.

Owns the site and what its pages may load. Does not own what is registered there: each app's `admin.py` does, and
`project/people.py` users and groups.
"""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig
from django.http import HttpRequest, HttpResponse
from unfold.sites import UnfoldAdminSite

if settings.HAS_CSP:
    from django.views.decorators.csp import csp_override
else:

    def csp_override(config: dict[str, Any]) -> Callable[[Any], Any]:
        """Nothing: Django before 6.0 sends no policy."""
        return lambda view: view


__all__ = ["AdminConfig", "AdminSite", "navigation"]

# What unfold needs beyond the site's own policy, on pages of the admin only.
CONTENT_SECURITY_POLICY = {
    **settings.SECURE_CSP,
    # Alpine.js, which unfold is built on, compiles the expressions in its templates when they run. Its build that does
    # not cannot read unfold's expressions (template strings, arrow functions). Inline scripts stay forbidden.
    "script-src": [*settings.SECURE_CSP["script-src"], "'unsafe-eval'"],
    # The width of the sidebar is a style attribute that Alpine.js sets. Inline style sheets stay forbidden.
    "style-src-attr": ["'unsafe-inline'"],
    # "Add another" beside a related field opens the admin in a frame of the admin.
    "frame-ancestors": ["'self'"],
}

# Material symbols in the sidebar, by model.
ICONS = {
    "Event": "campaign",
    "Notification": "notifications",
    "Delivery": "local_shipping",
    "Scheduled": "schedule_send",
    "Digest": "summarize",
    "Preference": "tune",
    "QuietHours": "bedtime",
    "Destination": "alternate_email",
    "PushSubscription": "install_desktop",
    "User": "person",
    "Group": "group",
    "LogPipeline": "conveyor_belt",
    "Task": "task_alt",
    "Order": "receipt_long",
    "Product": "inventory_2",
}
# Shorter names in the sidebar, by app.
TITLES = {"auth": "People"}


class AdminConfig(DjangoAdminConfig):
    """Django's admin with our site as the default one."""

    default_site = "project.admin.AdminSite"

    def ready(self) -> None:
        """Find what the apps register, then give users and groups the looks of the rest."""
        super().ready()
        from project import people  # noqa: F401 (registers; its models exist only now)


class AdminSite(UnfoldAdminSite):
    """unfold's site, with the policy above and the pages of notifications among its models."""

    def admin_view(self, view: Callable[..., Any], cacheable: bool = False) -> Callable[..., Any]:
        """Every page of the admin has the admin's policy."""
        return csp_override(CONTENT_SECURITY_POLICY)(super().admin_view(view, cacheable))

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The login page looks like the rest and needs the same."""
        return csp_override(CONTENT_SECURITY_POLICY)(super().login)(request, extra_context)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Without colours: unfold would write them into an inline style sheet; ours is a file (UNFOLD["STYLES"])."""
        return {**super().each_context(request), "colors": None}

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """The apps with their models, and the pages of notifications as if they were models."""
        apps = super().get_app_list(request, app_label)
        for app in apps:
            if app["app_label"] == "notifications":
                app["models"] += _pages(self, request)
        # What the site is about comes first.
        return sorted(apps, key=lambda app: app["app_label"] != "notifications")


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The sidebar: every app and model that the user may see, with an icon. UNFOLD["SIDEBAR"] names this function."""
    from django.contrib.admin import site

    apps = site.get_app_list(request)
    urls = [model["admin_url"] for app in apps for model in app["models"] if model["admin_url"]]
    # The longest, because some pages are below a model's.
    here = max((url for url in urls if request.path.startswith(url)), key=len, default="")
    return [
        {
            "title": TITLES.get(app["app_label"], app["name"]),
            "items": [
                {
                    "title": model["name"],
                    "link": model["admin_url"],
                    "icon": model.get("icon") or ICONS.get(model["object_name"], "database"),
                    "active": model["admin_url"] == here,
                }
                for model in app["models"]
                if model["admin_url"]
            ],
        }
        for app in apps
    ]


def _pages(site: AdminSite, request: HttpRequest) -> list[dict[str, Any]]:
    from notifications.models import Delivery, Event

    return [
        {
            "name": page.name,
            "object_name": page.name.title().replace(" ", ""),
            "admin_url": page.url,
            "add_url": None,
            "view_only": True,
            "icon": page.icon,
        }
        for model in (Event, Delivery)
        for page in site.get_model_admin(model).pages(request)
    ]
