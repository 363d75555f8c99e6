"""
The admin's pages of background tasks: lists of them with counts, one task, and the same as JSON.

Owns the pages and who may see them. Does not own reading tasks (realtime.tasks) nor actions on them (task_actions).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
import redis
from django.contrib import admin
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.forms import Media
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from realtime.admin.task_actions import ActionView
from realtime.conf import sync_redis
from realtime.models import Task
from realtime.tasks.details import TaskDetails, read_task
from realtime.tasks.listing import Query, TaskPage, TaskRow, is_cursor, read_page
from realtime.tasks.status import LISTED, STATES, KnownQueue, QueueCounts, known_queues, queue_of, read_counts

__all__ = ["TaskAdmin"]

# The longest dotted path of a function that can be searched for, in characters.
FUNC_LIMIT = 300
LABELS = {
    "ready": gettext_lazy("Ready"),
    "scheduled": gettext_lazy("Scheduled"),
    "running": gettext_lazy("Running"),
    "failed": gettext_lazy("Failed"),
    "successful": gettext_lazy("Successful"),
}


class TaskAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """
    The background tasks of the backends in TASKS that are a RedisStreamBackend.

    To see tasks, staff need the permission realtime.view_task. Running them again also needs realtime.change_task, and
    discarding them realtime.delete_task.
    """

    @property
    def media(self) -> Media:
        """The style sheets. The script is in the templates."""
        return Media(css={"all": ("realtime/admin/log_pipeline.css", "realtime/admin/tasks.css")})

    def get_urls(self) -> list[URLPattern]:
        """The pages, under the URL names of a model's pages, to which the admin index and the admin log link."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.list_page), name="realtime_task_changelist"),
            path("<path:task_id>/change/", view(self.task_page), name="realtime_task_change"),
        ]

    def has_view_permission(self, request: HttpRequest, obj: Task | None = None) -> bool:
        return request.user.has_perm("realtime.view_task")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def list_page(self, request: HttpRequest) -> HttpResponse:
        """
        GET shows the tasks of one queue in one state; POST acts on some of them.

        Raises:
            PermissionDenied: The user lacks the permission to see tasks, or that for the action.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        page = _TaskView(request, self)
        try:
            return page.act() if request.method == "POST" else page.show_list()
        except redis.RedisError as error:
            return page.show_outage(error)

    def task_page(self, request: HttpRequest, task_id: str) -> HttpResponse:
        """
        GET shows one task; POST acts on it.

        Raises:
            PermissionDenied: The user lacks the permission to see tasks, or that for the action.
            Http404: There is no such task (any more).
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        page = _TaskView(request, self, task_id=unquote(task_id))
        try:
            return page.act() if request.method == "POST" else page.show_task()
        except redis.RedisError as error:
            return page.show_outage(error)


class _TaskView(ActionView):
    """Handles one request."""

    def __init__(self, request: HttpRequest, task_admin: TaskAdmin, *, task_id: str = "") -> None:
        super().__init__(request)
        self._admin = task_admin
        self._site = task_admin.admin_site
        self._task_id = task_id

    # Pages ------------------------------------------------------------------------------------------------------------

    def show_list(self) -> HttpResponse:
        """The counts of all queues, and the tasks of one queue in one state."""
        client = sync_redis()
        queues = known_queues(client)
        counts = read_counts(client, queues.values())
        query = self._query(queues, counts)
        cursor = self._request.GET.get("after", "")
        cursor = cursor if is_cursor(cursor) else ""
        page = TaskPage(rows=(), older="", is_cut=False) if query is None else read_page(client, query, after=cursor)
        if self._format == "json":
            return _json(
                {
                    "at": datetime.now(UTC),
                    "queues": counts,
                    "queue": query and query.queue.name,
                    "state": query and query.state,
                    "func": query and query.func,
                    "tasks": page.rows,
                    "older": page.older,
                    "is_cut": page.is_cut,
                }
            )
        return self._render(
            "tasks",
            {
                "title": _("Tasks"),
                "queues": [(each, self._states(each, query)) for each in counts],
                "query": query,
                "label": LABELS[query.state] if query else "",
                "rows": [(row, self._task_url(row.id), self._func_url(query, row)) for row in page.rows if query],
                "funcs": sorted({row.func for row in page.rows}),
                "is_cut": page.is_cut,
                "older_url": self._list_url(query, after=page.older) if page.older else "",
                "newest_url": self._list_url(query) if cursor else "",
                "all_url": self._list_url(query, func="") if query and query.func else "",
                "listed": LISTED,
            },
        )

    def show_task(self) -> HttpResponse:
        """One task."""
        task = read_task(sync_redis(), self._task_id)
        if task is None:
            raise Http404(_("There is no such task (any more)."))
        if self._format == "json":
            return _json(task)
        queue = queue_of(task.id)
        context = {
            "title": _("Task %(id)s") % {"id": task.id},
            "task": task,
            "label": LABELS.get(task.state, task.state),
            "is_finished": task.state in ("failed", "successful"),
            "hidden_errors_count": task.error_count - len(task.errors),
            "attempts": _attempts(task),
        }
        if queue is not None:
            of_func = Query(queue=queue, state=task.state if task.state in STATES else "failed", func=task.func)
            context |= {"func_url": self._list_url(of_func), "queue_url": self._list_url(of_func, func="")}
        return self._render("task", context)

    def show_outage(self, error: redis.RedisError) -> HttpResponse:
        """The page while Redis is unavailable."""
        failure = f"{type(error).__name__}: {error}"
        if self._format == "json":
            return _json({"error": failure}, status=503)
        return self._render("tasks", {"title": _("Tasks"), "failure": failure}, status=503)

    # For actions ------------------------------------------------------------------------------------------------------

    def _chosen_query(self) -> Query | None:
        """The queue, and the function if there is one, that the form names. Raises redis.RedisError."""
        if self._task_id:
            queue = queue_of(self._task_id)
            return None if queue is None else Query(queue=queue, state="failed")
        return self._query(known_queues(sync_redis()), ())

    def _back_url(self, query: Query | None) -> str:
        if self._task_id and read_task(sync_redis(), self._task_id) is not None:
            return self._task_url(self._task_id)
        return self._list_url(query)

    def _render(self, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
        page = {
            "content_title": context["title"],
            "opts": self._admin.opts,
            "media": self._admin.media,
            "at": datetime.now(UTC),
            "list_url": self._list_url(None),
            "task_actions": [action for action in self.actions() if self._request.user.has_perm(action.permission)],
            **context,
        }
        self._request.current_app = self._site.name
        if self._format == "part":
            return TemplateResponse(self._request, f"realtime/admin/{template}_part.html", page, status=status)
        return TemplateResponse(
            self._request,
            f"realtime/admin/{template}.html",
            {**self._site.each_context(self._request), **page},
            status=status,
        )

    # Links ------------------------------------------------------------------------------------------------------------

    @property
    def _format(self) -> str:
        return self._request.GET.get("format", "")

    def _query(self, queues: dict[str, KnownQueue], counts: Sequence[QueueCounts]) -> Query | None:
        """What the request asks for. By default a list shows the first queue with failed tasks, or the first queue."""
        asked = self._request.POST if self._request.method == "POST" else self._request.GET
        name, state = asked.get("queue", ""), asked.get("state", "")
        if name not in queues:
            if self._request.method == "POST" or not queues:
                # An action has no default.
                return None
            name = next((each.queue for each in counts if each.failed), next(iter(queues)))
        return Query(
            queue=queues[name],
            state=state if state in STATES else "failed",
            func=asked.get("func", "").strip()[:FUNC_LIMIT],
        )

    def _states(self, counts: QueueCounts, query: Query | None) -> list[tuple[str, str, int, str, bool]]:
        """The count of each state, as (state, label, count, URL, whether the list shows it)."""
        return [
            (
                state,
                str(LABELS[state]),
                getattr(counts, state),
                f"{self._list_url(None)}?{urlencode({'queue': counts.queue, 'state': state})}",
                query is not None and (counts.queue, state) == (query.queue.name, query.state),
            )
            for state in STATES
        ]

    def _list_url(self, query: Query | None, **more: str) -> str:
        url = reverse(f"{self._site.name}:realtime_task_changelist")
        if query is None:
            return url
        asked = {"queue": query.queue.name, "state": query.state, "func": query.func, **more}
        return f"{url}?{urlencode({name: value for name, value in asked.items() if value})}"

    def _task_url(self, id: str) -> str:
        return reverse(f"{self._site.name}:realtime_task_change", args=[quote(id)])

    def _func_url(self, query: Query | None, row: TaskRow) -> str:
        return self._list_url(query, func=row.func)


def _attempts(task: TaskDetails) -> str:
    """How many attempts there were, as a text."""
    text = _("%(tries)d of %(limit)d") % {"tries": task.tries, "limit": task.max_attempts}
    if task.earlier_tries:
        text += " " + _("(and %(count)d before it was run again)") % {"count": task.earlier_tries}
    return text


def _json(content: object, *, status: int = 200) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(content), content_type="application/json", status=status)
