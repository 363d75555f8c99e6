"""
Django's system checks of the transport: problems that would fail silently later are reported at start.

Owns the ids `realtime.E…` and `realtime.W…`; docs/reference/checks.md lists them. Reads settings and opens nothing.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from channels.routing import ProtocolTypeRouter
from channels_redis.utils import decode_hosts
from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.management import get_commands
from django.http.request import validate_host
from django.templatetags.static import static
from django.utils.module_loading import import_string

from realtime.conf import RealtimeSettings, check_embedded_program, get_settings, load, resolve
from realtime.embedded.url import EmbeddedUrl
from realtime.layer import RedisChannelLayer
from realtime.layer.configuration import hosts_of
from realtime.redis.clients import check_host, place_of
from realtime.websocket.origins import Origin

__all__ = [
    "check_asgi_application",
    "check_channel_layer",
    "check_embedded_server",
    "check_other_package",
    "check_runserver",
    "check_settings",
    "check_static_files",
    "check_tasks",
]

# `manage.py check --tag realtime` runs these alone.
_TAG = "realtime"
# The apps whose runserver is WSGI's.
_WITHOUT_WEBSOCKETS = frozenset({"django.core", "django.contrib.staticfiles"})
_IN_MEMORY = "channels.layers.InMemoryChannelLayer"
_LAYER_HINT = (
    'Set CHANNEL_LAYERS = {"default": {"BACKEND": "realtime.layer.RedisChannelLayer"}}: it uses REALTIME["REDIS_URL"].'
)
_TASKS_HINT = "docs/reference/settings.md lists the OPTIONS and says what a queue may be named."


@register(_TAG)
def check_settings(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """REALTIME has known keys of the right types and sizes (E001), real origins (E002), a hook that exists (E005)."""
    try:
        values = load(RealtimeSettings, "REALTIME")
    except ImproperlyConfigured as error:
        hint = (
            'docs/reference/settings.md describes each key. REALTIME = {"REDIS_URL": "redis://localhost:6379/0"} '
            "is enough."
        )
        return [Error(str(error), hint=hint, id="realtime.E001")]
    problems: list[CheckMessage] = []
    if values.on_read:
        try:
            import_string(values.on_read)
        except Exception as error:
            # Also a model of an app that is not installed, which is a RuntimeError.
            hint = 'Name a function(user_id, ids), e.g. "notifications.services.mark_read", or leave it out.'
            problems.append(Error(f'REALTIME["ON_READ"] cannot be imported: {error}.', hint=hint, id="realtime.E005"))
    return problems + [
        Error(
            f'REALTIME["ALLOWED_ORIGINS"] contains {origin!r}, which is not an origin and matches no page.',
            hint='Write "https://app.example.com", with the port if it is not the default one, and nothing after it.',
            id="realtime.E002",
        )
        for origin in values.allowed_origins
        if Origin.parse(origin) is None
    ]


@register(_TAG)
def check_embedded_server(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """If REALTIME names the embedded server, it can be used here (E007). It is not started."""
    try:
        url = load(RealtimeSettings, "REALTIME").redis_url
    except ImproperlyConfigured:
        # E001 reports that.
        return []
    if EmbeddedUrl.parse(url) is None:
        return []
    try:
        resolve(url)
        check_embedded_program()
    except ImproperlyConfigured as error:
        problem = str(error)
    else:
        return []
    hint = "docs/reference/settings.md says when the embedded server can be used."
    return [Error(f"{problem[0].upper()}{problem[1:]}.", hint=hint, id="realtime.E007")]


@register(_TAG)
def check_other_package(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The app `notifications` is the one that comes with this package (W010)."""
    ours = Path(__file__).parent.parent
    return [
        Warning(
            f"The app notifications is not Signalbox's: Python found another package of this name in {config.path}.",
            hint="Rename that package if you want Signalbox's notifications. Otherwise silence realtime.W010.",
            id="realtime.W010",
        )
        for config in apps.get_app_configs()
        if config.name == "notifications" and Path(config.path).parent != ours
    ]


@register(_TAG)
def check_channel_layer(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """
    There is a channel layer (E003). It accepts its CONFIG (E006), names no embedded server but that of REALTIME (E008),
    reaches other processes (E004, with DEBUG W001), uses the Redis of REALTIME (W005), carries offsets (W004), has no
    option without effect (W008), and keeps its idle connections open (W002).
    """
    layers = getattr(settings, "CHANNEL_LAYERS", None)
    entry = layers.get("default") if isinstance(layers, Mapping) else None
    backend = entry.get("BACKEND") if isinstance(entry, Mapping) else None
    if not (isinstance(entry, Mapping) and isinstance(backend, str) and backend):
        problem = 'CHANNEL_LAYERS has no "default" layer with a BACKEND.'
        return [Error(problem, hint=_LAYER_HINT, id="realtime.E003")]
    try:
        layer = import_string(backend)
    except ImportError as error:
        problem = f"CHANNEL_LAYERS has no default layer that can be imported: {error}."
        return [Error(problem, hint=_LAYER_HINT, id="realtime.E003")]
    if backend == _IN_MEMORY:
        return [_in_memory()]
    config = entry.get("CONFIG", {})
    is_ours = isinstance(layer, type) and issubclass(layer, RedisChannelLayer)
    # This check comes first: if DEBUG is off, E006 would say how to allow that server, which would not help.
    if is_ours and (unstarted := _unstarted(config)):
        return unstarted
    if (is_ours or backend.startswith("channels_redis.")) and (refused := _refused(layer, config)):
        return [refused]
    if is_ours:
        return [*_check_hosts(config.get("hosts")), *_check_idle_options(config)]
    messages = [_without_offsets(backend)]
    if backend.startswith("channels_redis.") and _is_cut_when_idle(config.get("hosts")):
        messages.append(
            Warning(
                f"redis-py {redis.__version__} cuts connections that are idle for 5 seconds, and {backend} does not "
                "survive that (channels_redis#422): browsers would stop receiving notifications.",
                hint='Give each host as {"address": REDIS_URL, "socket_timeout": None}.',
                id="realtime.W002",
            )
        )
    return messages


@register(_TAG)
def check_asgi_application(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """ASGI_APPLICATION is set (W003), which daphne's runserver needs, and serves WebSockets (W009)."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if path:
        return _check_websockets(path)
    return [
        Warning(
            "ASGI_APPLICATION is not set: `manage.py runserver` serves no WebSocket without it.",
            hint='Set it to the ASGI application of the project, e.g. "project.asgi.application", and put "daphne" '
            "before django.contrib.staticfiles in INSTALLED_APPS.",
            id="realtime.W003",
        )
    ]


def _check_websockets(path: str) -> list[CheckMessage]:
    try:
        application = import_string(path)
    except Exception:
        # The server that imports the application reports the error.
        return []
    routes = application.application_mapping if isinstance(application, ProtocolTypeRouter) else {}
    is_without = isinstance(application, ASGIHandler | ASGIStaticFilesHandler)
    if not is_without and ("websocket" in routes or not isinstance(application, ProtocolTypeRouter)):
        return []
    return [
        Warning(
            f"{path} serves no WebSocket: pages work, but the bell receives nothing.",
            hint="Use realtime.setup.asgi_application() there, as docs/how-to/add-to-your-project.md shows.",
            id="realtime.W009",
        )
    ]


@register(_TAG)
def check_runserver(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """A runserver that starts serves WebSockets (W006); Django's own does not."""
    if sys.argv[1:2] != ["runserver"] or get_commands()["runserver"] not in _WITHOUT_WEBSOCKETS:
        return []
    return [
        Warning(
            "This is Django's WSGI development server: it serves pages but no WebSocket, so the bell receives nothing.",
            hint='Put "daphne" before django.contrib.staticfiles in INSTALLED_APPS, or start an ASGI server instead.',
            id="realtime.W006",
        )
    ]


@register(_TAG)
def check_static_files(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """
    The browser's scripts come from the site itself (W007).

    Scripts of another origin need CORS headers, and their tabs cannot share one connection.
    """
    try:
        url = static("realtime/client.js")
    except Exception:
        # For example, collectstatic has not written the manifest yet: rendering a page reports that.
        return []
    host = urlsplit(url).hostname
    if host is None or validate_host(host, [pattern for pattern in settings.ALLOWED_HOSTS if pattern != "*"]):
        return []
    return [
        Warning(
            f"Static files come from {host}, which is not in ALLOWED_HOSTS: browsers load the bell's script from "
            "another origin only with CORS headers, and each tab has its own WebSocket.",
            hint="Let that server send Access-Control-Allow-Origin, and silence realtime.W007; or serve the static "
            "files of realtime and notifications from the site itself, as docs/how-to/serve-under-a-path.md says.",
            id="realtime.W007",
        )
    ]


@register(_TAG)
def check_tasks(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Backends of ours in TASKS have valid OPTIONS and QUEUES (E009), a framework (E011) and own queues (W011)."""
    entries = getattr(settings, "TASKS", None)
    if not isinstance(entries, Mapping):
        return []
    problems: list[CheckMessage] = []
    # Queue → the aliases of the backends that have it.
    aliases: dict[str, list[str]] = {}
    for alias, entry in entries.items():
        try:
            backend = import_string(entry["BACKEND"])
        except Exception as error:
            if isinstance(error, ImproperlyConfigured) and isinstance(error, ImportError):
                # TasksMissing. Its module cannot be imported here.
                return [Error(f"{str(error)[0].upper()}{str(error)[1:]}.", id="realtime.E011")]
            # Django's own check of TASKS reports that.
            continue
        try:
            from realtime.tasks.backend import RedisStreamBackend
        except ImproperlyConfigured:
            # There is no framework, so this backend is not ours.
            continue
        if isinstance(backend, type) and issubclass(backend, RedisStreamBackend):
            made = backend(alias, entry)
            if made.problem:
                problems.append(Error(f"{made.problem}.", hint=_TASKS_HINT, id="realtime.E009"))
            for queue in made.queues:
                aliases.setdefault(str(queue), []).append(alias)
    return problems + [
        Warning(
            f"The task queue {queue!r} belongs to the backends {' and '.join(names)} of TASKS: they share its tasks, "
            "so the OPTIONS of either may apply to a task.",
            hint="Give each backend QUEUES of its own. If both are meant, silence realtime.W011.",
            id="realtime.W011",
        )
        for queue, names in sorted(aliases.items())
        if len(names) > 1
    ]


def _without_offsets(backend: str) -> CheckMessage:
    return Warning(
        f"{backend} carries no offsets: the relay sends through it, to consumers of your own, but RealtimeConsumer "
        "refuses every connection.",
        hint=f"{_LAYER_HINT} If you do not serve RealtimeConsumer, silence realtime.W004.",
        id="realtime.W004",
    )


def _in_memory() -> CheckMessage:
    kind, number = (Warning, "W001") if settings.DEBUG else (Error, "E004")
    return kind(
        "The channel layer is in memory: messages from run_bot_subscriber or another web process reach no browser.",
        hint=f"{_LAYER_HINT} If one process is intended, as in tests, silence realtime.{number}.",
        id=f"realtime.{number}",
    )


def _refused(layer: Any, config: Any) -> CheckMessage | None:
    """The layer's objection to its CONFIG, if it has one. Constructing the layer opens no connection."""
    try:
        get_settings()
    except ImproperlyConfigured:
        # The layer cannot be constructed without REALTIME, and E001 or E007 reports that.
        return None
    try:
        hosts = {**config}.get("hosts")
        for host in hosts_of(hosts) if issubclass(layer, RedisChannelLayer) else decode_hosts(hosts):
            check_host(host)
        layer(**config)
    except Exception as error:
        # Any error here would end each process that sends or serves.
        problem = f"The channel layer does not accept its CONFIG: {type(error).__name__}: {error}."
        hint = f"{_LAYER_HINT} docs/reference/channel-layer.md lists all options."
        return Error(problem, hint=hint, id="realtime.E006")
    return None


def _unstarted(config: Any) -> list[CheckMessage]:
    """The embedded servers among the hosts of our own layer that no process starts: all but the one of REALTIME."""
    try:
        own = get_settings().redis_url
        addresses = [host.get("address") for host in decode_hosts({**config}.get("hosts"))]
        embedded = {address: url for address in addresses if (url := EmbeddedUrl.parse(address))}
        # Whether DEBUG allows it is another question.
        unstarted = [
            address
            for address, url in embedded.items()
            if resolve(str(replace(url, is_allowed_without_debug=True))) != own
        ]
    except Exception:
        # E001, E006 or E007 reports that.
        return []
    return [
        Error(
            f"The channel layer names {address}, an embedded server that nothing starts: processes start only the one "
            'that REALTIME["REDIS_URL"] names.',
            hint=_LAYER_HINT,
            id="realtime.E008",
        )
        for address in unstarted
    ]


def _check_idle_options(config: Mapping[str, Any]) -> list[CheckMessage]:
    return [
        Warning(
            f'CHANNEL_LAYERS["default"]["CONFIG"]["{option}"] has no effect on {RedisChannelLayer.__name__}.',
            hint="Messages wait only at their consumer, within capacity_bytes: remove the option.",
            id="realtime.W008",
        )
        for option in ("expiry", "random_prefix_length")
        if config.get(option) is not None
    ]


def _check_hosts(hosts: Any) -> list[CheckMessage]:
    """For our own layer."""
    try:
        own = place_of(get_settings().redis_url)
    except ImproperlyConfigured:
        # E001 or E007 reports that.
        return []
    places = [place_of(host) for host in hosts_of(hosts)]
    if own in places or None in places:
        return []
    return [
        Warning(
            f'The channel layer is on {", ".join(map(str, places))}, while REALTIME["REDIS_URL"] is on {own}: '
            "notifications are queued on one server and sent to browsers through the other.",
            hint=f"{_LAYER_HINT} If two servers are intended, silence realtime.W005.",
            id="realtime.W005",
        )
    ]


def _is_cut_when_idle(hosts: Any) -> bool:
    if int(redis.__version__.split(".")[0]) < 8:
        return False
    entries = decode_hosts(hosts)
    return any("socket_timeout" not in host or host["socket_timeout"] is not None for host in entries)
