"""
The page of the live map, and the switch of its simulation.

Owns the two views. Does not own the vehicles, nor the lease that the switch uses (vehicles.switch).
"""

from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from project.demo.vehicles.lines import MODES, load_cities
from project.demo.vehicles.switch import Switch
from realtime.redis.outage import REDIS_ERRORS

__all__ = ["show_map", "simulation"]

NAMES = {"rail": "Trains", "ferry": "Ferries", "metro": "Metros", "tram": "Trams", "bus": "Buses"}
# At its real speed, a bus hardly moves on the map of a whole city.
TIME_LAPSE = 10
VEHICLES_A_FEED = 40


@require_safe
@login_required
@never_cache
def show_map(request: HttpRequest) -> HttpResponse:
    """The map. Users who are signed in may see it, as they may subscribe to its topics."""
    context = {
        "feed_count": len(load_cities()),
        "modes": [(mode, NAMES[mode], rule.level) for mode, rule in MODES.items()],
        "show_switch": settings.DEBUG,
        "simulation": _state() if settings.DEBUG else None,
    }
    return render(request, "demo/map.html", context)


@require_http_methods(["GET", "POST"])
@login_required
@never_cache
def simulation(request: HttpRequest) -> HttpResponse:
    """
    The switch: POST with `action`, "start" or "stop"; GET says what is running. With DEBUG only, because a simulation
    costs half a processor.

    Each GET also records that a page shows the map: see `Switch.watch`.
    """
    if not settings.DEBUG:
        raise Http404("the switch exists only in development: use manage.py simulate_vehicles")
    try:
        switch = Switch.of_the_project()
        if request.method == "POST":
            _act(switch, request.POST.get("action", ""))
            if request.accepts("text/html"):
                return HttpResponseRedirect(reverse("map"))
        else:
            switch.watch()
        return JsonResponse({"simulation": switch.state()})
    except REDIS_ERRORS as error:
        return JsonResponse({"error": f"Redis is unavailable ({error})"}, status=HTTPStatus.SERVICE_UNAVAILABLE)


def _act(switch: Switch, action: str) -> None:
    if action == "start":
        count = settings.DEMO_VEHICLES
        feed_count = min(len(load_cities()), max(1, count // VEHICLES_A_FEED))
        switch.start(f"--vehicles={count}", f"--feeds={feed_count}", f"--time-lapse={TIME_LAPSE}")
    elif action == "stop":
        switch.stop()
    else:
        raise BadRequest('"action" is "start" or "stop"')


def _state() -> dict[str, Any] | None:
    """The state of the switch; also None if Redis is unavailable, so that the page can be shown."""
    try:
        return Switch.of_the_project().state()
    except REDIS_ERRORS:
        return None
