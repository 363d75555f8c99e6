"""The admin page "Log pipeline", and the same as JSON. Does not own the figures (sinks.status)."""

import msgspec
import redis
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.forms import Media
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse

from realtime.conf import keys, sync_redis
from realtime.models import LogPipeline
from realtime.sinks.status import PipelineStatus, read_pipeline

__all__ = ["LogPipelineAdmin"]

# The whole page, and the part of it that its script fetches again and again.
_PAGE, _PART = "realtime/admin/log_pipeline.html", "realtime/admin/log_pipeline_part.html"


class LogPipelineAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    One page: what the sinks have done, what waits for them, and the latest records.

    It needs the permission realtime.view_logpipeline: log records may contain personal data.
    """

    @property
    def media(self) -> Media:
        """The style sheet; the template has the script."""
        return Media(css={"all": ("realtime/admin/log_pipeline.css",)})

    def get_urls(self) -> list[URLPattern]:
        """Only the page. It has the name that a list of rows would have, so that the index links to it."""
        return [path("", self.admin_site.admin_view(self.page), name="realtime_logpipeline_changelist")]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: LogPipeline | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: LogPipeline | None = None) -> bool:
        return False

    def page(self, request: HttpRequest) -> HttpResponse:
        """
        Show the page; with `?format=json`, the fields of `PipelineStatus`.

        Raises:
            PermissionDenied: The user lacks the permission realtime.view_logpipeline.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        status, failure = _read()
        if request.GET.get("format") == "json":
            content = {"error": failure} if status is None else status
            return HttpResponse(
                msgspec.json.encode(content),
                content_type="application/json",
                status=503 if status is None else 200,
            )
        context = {
            "status": status,
            "failure": failure,
            "dead_letters_url": self._dead_letters_url(request),
            "key_prefix": keys().prefix,
        }
        if request.GET.get("format") == "part":
            return TemplateResponse(request, _PART, context)
        site = self.admin_site
        request.current_app = site.name
        page = {"title": "Log pipeline", "content_title": "Log pipeline", "opts": self.opts, "media": self.media}
        return TemplateResponse(request, _PAGE, {**site.each_context(request), **page, **context})

    def _dead_letters_url(self, request: HttpRequest) -> str:
        """The URL of the page that the app notifications has for dead letters; "" if the user cannot open it."""
        if not request.user.has_perm("notifications.view_dead_letters"):
            return ""
        try:
            return reverse(f"{self.admin_site.name}:notifications_delivery_dead_letters")
        except NoReverseMatch:
            return ""


def _read() -> tuple[PipelineStatus | None, str]:
    """The status, or why there is none."""
    try:
        return read_pipeline(sync_redis(), keys()), ""
    except redis.RedisError as error:
        return None, f"{type(error).__name__}: {error}"
