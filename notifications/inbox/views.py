"""
The HTTP views of the inbox: its pages, the bell as a fragment, and the forms that mark notifications.

Owns requests and responses. Does not own queries (queries) or writes (services). Users see and change only their own
notifications. All forms work without JavaScript; bell.js sends the same forms with `Accept: application/json`.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.exceptions import BadRequest
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from notifications import services
from notifications.inbox import queries
from notifications.inbox.page import find_base, nonce_of
from notifications.label import LABEL
from notifications.models import Notification

__all__ = ["mark_archived", "mark_read", "mark_seen", "show_bell", "show_inbox"]

# The most ids in one form.
IDS_LIMIT = 500
# Any number with this many digits fits into a database's integer.
_ID_DIGITS = 18


@require_safe
@login_required
@never_cache
def show_inbox(request: HttpRequest) -> HttpResponse:
    """
    GET /notifications/?before=ID&unread=1: one page of the inbox.

    It extends the project's `notifications/base.html` or `base.html`, if there is one. That template needs the blocks
    `title` and `content` (system check notifications.W002).
    """
    unread_only = request.GET.get("unread") == "1"
    before = _number(request.GET["before"]) if "before" in request.GET else None
    page = queries.read_page(request.user.pk, before=before, unread_only=unread_only)
    context = {
        "base": find_base(),
        "nonce": nonce_of(request),
        "page": page,
        "before": before,
        "unread_only": unread_only,
        "next": request.get_full_path(),
    }
    return render(request, "notifications/inbox.html", context)


@require_safe
@login_required
@never_cache
def show_bell(request: HttpRequest) -> HttpResponse:
    """GET /notifications/bell/: the current bell of the user, for bell.js."""
    return render(request, "notifications/fragment.html")


@require_POST
@login_required
def mark_seen(request: HttpRequest) -> HttpResponse:
    """POST /notifications/seen/ with `up_to` or `id`s: the bell was opened."""
    return _mark(request, services.mark_seen, queries.notifications().unseen(request.user.pk))


@require_POST
@login_required
def mark_read(request: HttpRequest) -> HttpResponse:
    """POST /notifications/read/ with `up_to` or `id`s."""
    return _mark(request, services.mark_read, queries.notifications().unread(request.user.pk))


@require_POST
@login_required
def mark_archived(request: HttpRequest) -> HttpResponse:
    """POST /notifications/archive/ with `up_to` or `id`s."""
    return _mark(request, services.mark_archived, queries.notifications().inbox(request.user.pk))


def _mark(
    request: HttpRequest, write: Callable[[Any, Iterable[int]], int], candidates: QuerySet[Notification]
) -> HttpResponse:
    """
    Mark the notifications of a form: its `id`s, or all `candidates` up to the newest one that its page showed.

    Notifications that arrived after the page was rendered are not changed, because the user has not seen them.
    """
    if "up_to" in request.POST:
        found = candidates.filter(pk__lte=_number(request.POST["up_to"]))
        ids = list(found.order_by().values_list("pk", flat=True))
    else:
        named = request.POST.getlist("id")
        if len(named) > IDS_LIMIT:
            raise BadRequest(f"{len(named)} ids, the limit is {IDS_LIMIT}: send them in parts, or send up_to")
        ids = [_number(text) for text in named]
    changed = sum(write(request.user.pk, part) for part in itertools.batched(ids, IDS_LIMIT))
    if request.accepts("text/html"):
        return HttpResponseRedirect(_next(request))
    return JsonResponse({"changed": changed})


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS):
        raise BadRequest(f"{text[:40]!r} is not the id of a notification")
    return int(text)


def _next(request: HttpRequest) -> str:
    wanted = request.POST.get("next", "")
    if url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()):
        return wanted
    return reverse(f"{LABEL}:inbox")
