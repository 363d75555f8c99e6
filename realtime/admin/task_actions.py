"""
Actions on background tasks in the admin: run again and discard.

Owns permissions, confirmations, messages, and the entry in Django's admin log. Does not own the pages (tasks) nor what
happens to tasks (realtime.tasks.operating).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis
from django.contrib import messages
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from realtime.conf import sync_redis
from realtime.models import Task
from realtime.tasks.listing import PAGE_SIZE, Query, find_failed
from realtime.tasks.operating import Done, discard, run_again
from realtime.tasks.status import LISTED, KnownQueue

__all__ = ["Action", "ActionView"]

# The most ids in a log entry, and the most characters of its subject.
IDS_LOGGED = 20
SUBJECT_LIMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """
    An action on tasks.

    Attributes:
        name: Its name in forms.
        permission: The permission that it needs.
        log_flag: The kind of its entries in Django's admin log.
        must_confirm: Whether it asks before it acts on selected tasks. It always asks before it acts on all tasks of a
            function.
        do: Acts on tasks; see realtime.tasks.operating.
        this, selected, all: The labels of its buttons: for the task of a page, for the selected tasks of a list, and
            for all failed tasks of a function.
        remark: The explanation on the confirmation page.
        words: What it did, in the admin log.
    """

    name: str
    permission: str
    log_flag: int
    must_confirm: bool
    do: Callable[[redis.Redis, KnownQueue, Sequence[str]], Iterator[Done]]
    this: Promise
    selected: Promise
    all: Promise
    remark: Promise
    words: str


RUN_AGAIN = Action(
    name="run_again",
    permission="realtime.change_task",
    log_flag=CHANGE,
    must_confirm=False,
    do=run_again,
    this=gettext_lazy("Run again"),
    selected=gettext_lazy("Run selected again"),
    all=gettext_lazy("Run all failed of this function again…"),
    remark=gettext_lazy("They wait for a worker, with all their attempts. Fix the cause of the failure first."),
    words="Run again",
)
DISCARD = Action(
    name="discard",
    permission="realtime.delete_task",
    log_flag=DELETION,
    must_confirm=True,
    do=discard,
    this=gettext_lazy("Discard…"),
    selected=gettext_lazy("Discard selected…"),
    all=gettext_lazy("Discard all failed of this function…"),
    remark=gettext_lazy(
        "What waits will not run: it fails, and whoever waits for it is told. What has finished is deleted for good, "
        "with its result. What is running stays."
    ),
    words="Discarded",
)
ACTIONS = {action.name: action for action in (RUN_AGAIN, DISCARD)}


class ActionView:
    """Handles the actions of a request. A subclass has the pages."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        # The task of the page; "" on a list.
        self._task_id = ""

    def actions(self) -> Sequence[Action]:
        """All actions."""
        return tuple(ACTIONS.values())

    def act(self) -> HttpResponse:
        """
        Do what was asked for, or ask for a confirmation first.

        Raises:
            PermissionDenied: The user lacks the permission for the action.
            redis.RedisError: Redis is unavailable, and nothing was done.
        """
        form = self._request.POST
        name, _space, scope = form.get("do", "").partition(" ")
        action, query = ACTIONS.get(name), self._chosen_query()
        if action is not None and not self._request.user.has_perm(action.permission):
            raise PermissionDenied
        is_all = scope == "all"
        if action is None or query is None or (is_all and not query.func):
            return self._back(query, messages.ERROR, _("Nothing was done: the form is incomplete."))
        until = form.get("until", "")
        until_ms = int(until) if until.isascii() and until.isdecimal() and len(until) < 16 else None
        is_confirmed = form.get("confirmed") == "yes" and not (is_all and until_ms is None)
        if is_all:
            ids, newest_ms = find_failed(sync_redis(), query.queue, query.func, until_ms=until_ms)
        else:
            ids, newest_ms = self._selected(query.queue), 0
        if not ids:
            return self._back(query, messages.WARNING, _("Nothing was done: no task is selected, or none is left."))
        if (action.must_confirm or is_all) and not is_confirmed:
            return self._ask(action, query, ids, is_all=is_all, until_ms=newest_ms)
        return self._do(action, query, ids, is_all=is_all)

    # For the subclass -------------------------------------------------------------------------------------------------

    def _chosen_query(self) -> Query | None:
        raise NotImplementedError

    def _back_url(self, query: Query | None) -> str:
        raise NotImplementedError

    def _render(self, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------------------

    def _selected(self, queue: KnownQueue) -> list[str]:
        if self._task_id:
            return [self._task_id]
        # Of this queue: the keys of others would be on another node of a Redis Cluster.
        ids = (id for id in self._request.POST.getlist("id") if id.rpartition(".")[0] == queue.name)
        return list(dict.fromkeys(ids))[:PAGE_SIZE]

    def _ask(self, action: Action, query: Query, ids: Sequence[str], *, is_all: bool, until_ms: int) -> HttpResponse:
        question = {
            "run_again": ngettext("Run %(count)d task again?", "Run %(count)d tasks again?", len(ids)),
            "discard": ngettext("Discard %(count)d task?", "Discard %(count)d tasks?", len(ids)),
        }[action.name] % {"count": len(ids)}
        context = {
            "title": question,
            "task_action": action,
            "query": query,
            "scope": "all" if is_all else "selected",
            "ids": () if is_all or self._task_id else ids,
            # The first of them, so that users see which tasks they act on.
            "shown": ids[:IDS_LOGGED],
            "more_count": max(0, len(ids) - IDS_LOGGED),
            "is_full": is_all and len(ids) >= LISTED,
            # Tasks that fail after the question are not in its count, so the action leaves them out.
            "until": until_ms if is_all else "",
            "cancel_url": self._back_url(query),
        }
        return self._render("tasks_confirm", context)

    def _do(self, action: Action, query: Query, ids: Sequence[str], *, is_all: bool) -> HttpResponse:
        # Written first, so that nothing is done without a log entry.
        entry = self._begin_entry(action, query, ids, is_all=is_all)
        done, outage = Done(), ""
        try:
            for step in action.do(sync_redis(), query.queue, ids):
                done += step
        except redis.RedisError as error:
            outage = type(error).__name__
        named = ", ".join(ids[:IDS_LOGGED]) + (" and others" if len(ids) > IDS_LOGGED else "")
        failed = f" Redis then failed ({outage}): there may be more." if outage else ""
        entry.change_message = f"{action.words}: {done.done} of {len(ids)} ({named}).{failed}"
        entry.save(update_fields=["change_message"])
        texts = [*_texts(action, done)]
        if outage:
            texts.append(_("Redis then failed (%(error)s): there may be more.") % {"error": outage})
        level = messages.ERROR if outage else messages.SUCCESS if done.done == len(ids) else messages.WARNING
        return self._back(query, level, " ".join(texts))

    def _begin_entry(self, action: Action, query: Query, ids: Sequence[str], *, is_all: bool) -> LogEntry:
        """The entry of the action, before it is done."""
        if len(ids) == 1:
            subject = ids[0]
        else:
            subject = f"tasks of the queue {query.queue.name}{f', {query.func}' if is_all else ''}"
        return LogEntry.objects.create(
            user=cast(Any, self._request.user),
            content_type=ContentType.objects.get_for_model(Task),
            object_id=ids[0] if len(ids) == 1 else None,
            object_repr=subject[:SUBJECT_LIMIT],
            action_flag=action.log_flag,
            change_message=f"{action.words}: began.",
        )

    def _back(self, query: Query | None, level: int, text: str) -> HttpResponse:
        messages.add_message(self._request, level, text)
        try:
            return HttpResponseRedirect(self._back_url(query))
        except redis.RedisError:
            # The list says that Redis is unavailable.
            return HttpResponseRedirect(self._request.path)


def _texts(action: Action, done: Done) -> Iterator[str]:
    """Sentences: how many tasks were changed, and how many were not for which reason."""
    if action is RUN_AGAIN:
        yield ngettext("%(count)d task will run again.", "%(count)d tasks will run again.", done.done) % {
            "count": done.done
        }
        unfinished = ngettext(
            "%(count)d task has not finished, so it runs anyway.",
            "%(count)d tasks have not finished, so they run anyway.",
            done.unfinished,
        )
    else:
        yield ngettext("%(count)d task was discarded.", "%(count)d tasks were discarded.", done.done) % {
            "count": done.done
        }
        unfinished = ngettext(
            "%(count)d task is running, so it was not discarded.",
            "%(count)d tasks are running, so they were not discarded.",
            done.unfinished,
        )
    reasons = (
        (done.unfinished, unfinished),
        (
            done.missing,
            ngettext("%(count)d task does not exist any more.", "%(count)d tasks do not exist any more.", done.missing),
        ),
        (
            done.key_taken,
            ngettext(
                "%(count)d task has a unique key that another task has now.",
                "%(count)d tasks have a unique key that another task has now.",
                done.key_taken,
            ),
        ),
        (
            done.changed,
            ngettext(
                "%(count)d task changed at this moment: try again.",
                "%(count)d tasks changed at this moment: try again.",
                done.changed,
            ),
        ),
    )
    yield from (text % {"count": count} for count, text in reasons if count)
