"""
Django's system checks of the transport: what would fail silently later is said when the process starts.

Owns the ids `realtime.E…` and `realtime.W…`; docs/reference/checks.md lists them. Reads settings and opens nothing.
"""

import sys
from collections.abc import Sequence
from typing import Any

import redis
from channels_redis.utils import decode_hosts
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.utils.module_loading import import_string

from realtime.conf import RealtimeSettings, load
from realtime.layer import RedisChannelLayer
from realtime.origins import Origin

__all__ = ["check_asgi_application", "check_channel_layer", "check_runserver", "check_settings"]

# `manage.py check --tag realtime` runs these alone.
_TAG = "realtime"
# The apps whose runserver is WSGI's.
_WITHOUT_WEBSOCKETS = frozenset({"django.core", "django.contrib.staticfiles"})
_IN_MEMORY = "channels.layers.InMemoryChannelLayer"
_LAYER_HINT = (
    'Set CHANNEL_LAYERS = {"default": {"BACKEND": "realtime.layer.RedisChannelLayer", '
    '"CONFIG": {"hosts": [REDIS_URL]}}}.'
)


@register(_TAG)
def check_settings(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """REALTIME has known keys of the right types and sizes (E001), real origins (E002), a hook that exists (E005)."""
    try:
        values = load(RealtimeSettings, "REALTIME")
    except ImproperlyConfigured as error:
        hint = 'At least REALTIME = {"REDIS_URL": "redis://localhost:6379/0"} is needed.'
        return [Error(str(error), hint=hint, id="realtime.E001")]
    problems: list[CheckMessage] = []
    if values.on_read:
        try:
            import_string(values.on_read)
        except ImportError as error:
            hint = 'Name a function(user_id, ids), e.g. "notifications.services.mark_read", or leave the key out.'
            problems.append(Error(f'REALTIME["ON_READ"] cannot be imported: {error}.', hint=hint, id="realtime.E005"))
    return problems + [
        Error(
            f'REALTIME["ALLOWED_ORIGINS"] has {origin!r}, which is no origin and will match no page.',
            hint='Spell it "https://app.example.com", with the port if it is not the usual one, and nothing after.',
            id="realtime.E002",
        )
        for origin in values.allowed_origins
        if Origin.parse(origin) is None
    ]


@register(_TAG)
def check_channel_layer(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """
    There is a channel layer (E003) that reaches other processes (E004, with DEBUG W001), carries offsets (W004), and
    whose idle connections live (W002).
    """
    layers = getattr(settings, "CHANNEL_LAYERS", None) or {}
    backend = layers.get("default", {}).get("BACKEND", "")
    try:
        layer = import_string(backend)
    except ImportError as error:
        problem = f"CHANNEL_LAYERS has no default layer that can be imported: {error}."
        return [Error(problem, hint=_LAYER_HINT, id="realtime.E003")]
    if backend == _IN_MEMORY:
        return [_in_memory()]
    if isinstance(layer, type) and issubclass(layer, RedisChannelLayer):
        return []
    messages = [_without_offsets(backend)]
    hosts = layers["default"].get("CONFIG", {}).get("hosts")
    if backend.startswith("channels_redis.") and _is_cut_when_idle(hosts):
        messages.append(
            Warning(
                f"redis-py {redis.__version__} cuts connections that are idle for 5 seconds, and {backend} does not "
                "survive that (channels_redis#422): browsers would stop hearing of notifications.",
                hint='Give each host as {"address": REDIS_URL, "socket_timeout": None}.',
                id="realtime.W002",
            )
        )
    return messages


@register(_TAG)
def check_asgi_application(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """ASGI_APPLICATION is set (W003): daphne's runserver wants it."""
    if getattr(settings, "ASGI_APPLICATION", None):
        return []
    return [
        Warning(
            "ASGI_APPLICATION is not set: `manage.py runserver` serves no WebSocket without it.",
            hint='Set it to the ASGI application of the project, e.g. "project.asgi.application"; and have "daphne" '
            "before django.contrib.staticfiles in INSTALLED_APPS.",
            id="realtime.W003",
        )
    ]


@register(_TAG)
def check_runserver(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """When it is runserver that starts, it is one that serves WebSockets (W006): Django's own does not."""
    if sys.argv[1:2] != ["runserver"] or get_commands()["runserver"] not in _WITHOUT_WEBSOCKETS:
        return []
    return [
        Warning(
            "This is Django's WSGI development server: it serves pages, but no WebSocket, so the bell hears nothing.",
            hint='Put "daphne" before django.contrib.staticfiles in INSTALLED_APPS, or start an ASGI server instead.',
            id="realtime.W006",
        )
    ]


def _without_offsets(backend: str) -> CheckMessage:
    return Warning(
        f"{backend} carries no offsets: the relay sends through it, to consumers of your own, but RealtimeConsumer "
        "refuses every connection.",
        hint=f"{_LAYER_HINT} Where no RealtimeConsumer is meant to be served, silence realtime.W004.",
        id="realtime.W004",
    )


def _in_memory() -> CheckMessage:
    kind, number = (Warning, "W001") if settings.DEBUG else (Error, "E004")
    return kind(
        "The channel layer is in memory: what run_bot_subscriber or another web process sends reaches no browser.",
        hint=f"{_LAYER_HINT} Where one process is meant, as in tests, silence realtime.{number}.",
        id=f"realtime.{number}",
    )


def _is_cut_when_idle(hosts: Any) -> bool:
    if int(redis.__version__.split(".")[0]) < 8:
        return False
    try:
        entries = decode_hosts(hosts)
    except ValueError:
        # The layer says what is wrong with them when it is made.
        return False
    return any("socket_timeout" not in host or host["socket_timeout"] is not None for host in entries)
