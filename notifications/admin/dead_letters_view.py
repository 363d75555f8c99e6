"""
The page "Dead letters": shows, replays and purges them, after a confirmation.

Owns permissions, the confirmation, and the entry in Django's admin log. Does not own finding letters (dead_letters) or
moving them (realtime.streams.dead_letters).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import redis
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from notifications.admin.dead_letters import ACT_LIMIT, PAGE_SIZE, Query, find_chosen, is_letter_id, read_page
from notifications.admin.records import begin_record
from notifications.label import admin_url_name, permission
from realtime.conf import keys, sync_redis
from realtime.streams.dead_letters import DeadLetter, purge, replay
from realtime.streams.keys import GroupKeys
from realtime.streams.status import GroupStatus, known_streams, read_status

__all__ = ["dead_letters_view"]

# The length of a search term, in characters, and the most ids in a log entry.
WORD_LIMIT = 150
IDS_LOGGED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action on dead letters."""

    name: str
    done: str
    permission: str
    log_flag: int
    do: Callable[[redis.Redis, GroupKeys, Sequence[DeadLetter]], int]
    # The explanation on the confirmation page.
    remark: str


ACTIONS = {
    action.name: action
    for action in (
        Action(
            name="replay",
            done="replayed",
            permission=permission("replay_dead_letters"),
            log_flag=CHANGE,
            do=replay,
            remark=(
                "Each entry goes back to its group with all its attempts, before newer entries of the same user. "
                "Workers handle it within seconds. Fix the cause of the failure first."
            ),
        ),
        Action(
            name="purge",
            done="purged",
            permission=permission("purge_dead_letters"),
            log_flag=DELETION,
            do=purge,
            remark="They are deleted for good. Events, notifications and deliveries stay in the database.",
        ),
    )
}


def dead_letters_view(request: HttpRequest, delivery_admin: "admin.ModelAdmin[Any]") -> HttpResponse:
    """
    GET shows the dead letters of a group. POST asks for a confirmation, and then replays or purges them.

    Raises:
        PermissionDenied: The user lacks notifications.view_dead_letters, or the permission for the action.
    """
    if not request.user.has_perm(permission("view_dead_letters")):
        raise PermissionDenied
    page = _View(request, delivery_admin)
    try:
        return page.act() if request.method == "POST" else page.show()
    except redis.RedisError as error:
        return page.show_outage(error)


class _View:
    """Handles one request."""

    def __init__(self, request: HttpRequest, delivery_admin: "admin.ModelAdmin[Any]") -> None:
        self._request = request
        self._admin = delivery_admin
        self._site: admin.AdminSite = delivery_admin.admin_site
        self._input = request.POST if request.method == "POST" else request.GET

    def show(self) -> HttpResponse:
        """The letters of one group, with links to the other groups."""
        groups = self._groups()
        query = self._query(groups)
        until = self._input.get("until", "")
        context: dict[str, Any] = {"query": query, "until": until if is_letter_id(until) else ""}
        if query is not None:
            context["page"] = page = read_page(sync_redis(), query, until=context["until"] or None)
            context["older_url"] = self._url(query, until=page.older_from) if page.older_from else ""
            context["newest_url"] = self._url(query)
        context["groups"] = [
            (each, status, self._url(each), query is not None and each.keys == query.keys) for each, status in groups
        ]
        context["letter_actions"] = [
            action for action in ACTIONS.values() if self._request.user.has_perm(action.permission)
        ]
        return self._render("dead_letters.html", context)

    def act(self) -> HttpResponse:
        """Ask for a confirmation, or do what was confirmed."""
        name, _, scope = self._input.get("do", "").partition(" ")
        action = ACTIONS.get(name)
        query = self._query(self._groups())
        if action is None or query is None or scope not in ("selected", "all"):
            return self._back(query, messages.ERROR, "Nothing was done: the form is incomplete.")
        if not self._request.user.has_perm(action.permission):
            raise PermissionDenied
        ids = None if scope == "all" else [id for id in self._input.getlist("id")[:PAGE_SIZE] if is_letter_id(id)]
        if ids == []:
            return self._back(query, messages.WARNING, f"Nothing was {action.done}: select dead letters first.")
        if self._input.get("confirmed") == "yes":
            return self._do(action, query, ids)
        return self._ask(action, query, ids)

    def show_outage(self, error: redis.RedisError) -> HttpResponse:
        """The page while Redis is unavailable."""
        return self._render("dead_letters.html", {"redis_error": str(error) or type(error).__name__, "query": None})

    def _ask(self, action: Action, query: Query, ids: list[str] | None) -> HttpResponse:
        found = [letter.id for turn in find_chosen(sync_redis(), query, ids=ids, until=None) for letter in turn]
        if not found:
            return self._back(
                query, messages.WARNING, f"Nothing was {action.done}: these dead letters no longer exist."
            )
        context = {
            "letter_action": action,
            "query": query,
            "count": len(found),
            "is_full": ids is None and len(found) == ACT_LIMIT,
            "scope": "all" if ids is None else "selected",
            "ids": () if ids is None else found,
            # Later dead letters are not in the count, so the action must not include them.
            "until": found[-1] if ids is None else "",
            "cancel_url": self._url(query),
        }
        return self._render("dead_letters_confirm.html", context)

    def _do(self, action: Action, query: Query, ids: list[str] | None) -> HttpResponse:
        until = self._input.get("until", "")
        if ids is None and not is_letter_id(until):
            return self._back(query, messages.ERROR, "Nothing was done: the confirmation is incomplete.")
        # Written first, so that nothing is done without a log entry.
        subject = f"dead letters of {query.stream}, {query.group}"
        record = begin_record(self._request, action.log_flag, subject, f"Began to {action.name} them.")
        count, outage = 0, ""
        named: list[str] = []
        try:
            for turn in find_chosen(sync_redis(), query, ids=ids, until=until or None):
                named += [letter.id for letter in turn[: IDS_LOGGED - len(named)]]
                count += action.do(sync_redis(), query.keys, turn)
        except redis.RedisError as error:
            outage = f" Redis then failed ({type(error).__name__}): there may be more."
        text = f"{action.done.capitalize()} {_letters(count)}."
        record.change_message = f"{text[:-1]} {_chosen(query, ids)}: {', '.join(named) or 'none'}"
        record.change_message += f" and others.{outage}" if count > len(named) else f".{outage}"
        record.save(update_fields=["change_message"])
        return self._back(query, messages.ERROR if outage else messages.SUCCESS, text + outage)

    def _groups(self) -> list[tuple[Query, GroupStatus]]:
        client = sync_redis()
        return [
            (Query(stream=stream.key, group=group.name), group)
            for stream in read_status(client, known_streams(client, keys().streams()))
            for group in stream.groups
        ]

    def _query(self, groups: list[tuple[Query, GroupStatus]]) -> Query | None:
        """The query for the requested group if it exists; by default the first group that has dead letters."""
        asked = (self._input.get("stream"), self._input.get("group"))
        named = [each for each, _ in groups if (each.stream, each.group) == asked]
        # An action has no default: it needs the group that the form names.
        if self._request.method != "POST":
            named += [each for each, status in groups if status.dead] + [each for each, _ in groups]
        word = self._input.get("q", "").strip()[:WORD_LIMIT]
        return Query(stream=named[0].stream, group=named[0].group, word=word) if named else None

    def _url(self, query: Query | None, **more: str) -> str:
        url = reverse(f"{self._site.name}:{admin_url_name('delivery_dead_letters')}")
        if query is None:
            return url
        asked = {"stream": query.stream, "group": query.group, "q": query.word, **more}
        return f"{url}?{urlencode({name: value for name, value in asked.items() if value})}"

    def _back(self, query: Query | None, level: int, text: str) -> HttpResponse:
        messages.add_message(self._request, level, text)
        return HttpResponseRedirect(self._url(query))

    def _render(self, template: str, context: dict[str, Any]) -> HttpResponse:
        context = {
            **self._site.each_context(self._request),
            "title": "Dead letters",
            "content_title": "Dead letters",
            "model_admin": self._admin,
            "media": self._admin.media,
            **context,
        }
        self._request.current_app = self._site.name
        return TemplateResponse(self._request, f"notifications/admin/{template}", context)


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count:,} dead letters"


def _chosen(query: Query, ids: list[str] | None) -> str:
    """Which letters were chosen, in the words of the log entry."""
    return "chosen one by one" if ids is not None else f"of “{query.word}”" if query.word else "of the whole group"
