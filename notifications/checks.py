"""
Django's system checks of the domain: a wrong setting is said when the process starts.

Owns the ids `notifications.E…`; docs/reference/checks.md lists them. Reads settings and opens nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from notifications.conf import NotificationsSettings, load_settings
from notifications.kinds import all_kinds
from notifications.transports.registry import load_transport

__all__ = ["check_installed_apps", "check_settings"]


_TAG = "notifications"


@register(_TAG)
def check_installed_apps(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The transport is installed too (E005): only then its checks run, and topics and its commands are found."""
    if apps.is_installed("realtime"):
        return []
    problem = "INSTALLED_APPS has notifications without realtime: no app's topics.py is read, so nobody may hear any."
    hint = 'Set INSTALLED_APPS = [..., "realtime", "notifications"].'
    return [Error(problem, hint=hint, id="notifications.E005")]


@register(_TAG)
def check_settings(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """
    NOTIFICATIONS, if it is there, has known keys of the right types and sizes (E001), transports that can be made
    (E002), kinds that name no others (E003), and hooks that exist (E004).
    """
    try:
        values = load_settings()
    except ImproperlyConfigured as error:
        hint = "docs/reference/settings.md says what each key takes; one that is left out has its default."
        return [Error(str(error), hint=hint, id="notifications.E001")]
    return [*_check_transports(values), *_check_names(values), *_check_hooks(values)]


def _check_transports(values: NotificationsSettings) -> Iterator[CheckMessage]:
    for name in values.transports:
        try:
            load_transport(name)
        except ImproperlyConfigured as error:
            hint = "docs/how-to/deliver-by-email-and-more.md has an entry for each transport."
            yield Error(str(error), hint=hint, id="notifications.E002")


def _check_names(values: NotificationsSettings) -> Iterator[CheckMessage]:
    named = {'NOTIFICATIONS["DEFAULT_TRANSPORTS"]': set(values.default_transports)}
    for kind in all_kinds():
        named[f"the kind {kind.key!r}"] = {
            *(kind.transports or ()),
            *kind.required,
            *kind.forbidden,
            *kind.fallback,
            *kind.digest,
        }
    for where, names in named.items():
        if unknown := sorted(names - set(values.transports)):
            text = f'{where} names {", ".join(unknown)}, which NOTIFICATIONS["TRANSPORTS"] does not have.'
            hint = f"There are: {', '.join(values.transports)}. Add the transport, or name another."
            yield Error(text, hint=hint, id="notifications.E003")


def _check_hooks(values: NotificationsSettings) -> Iterator[CheckMessage]:
    hooks = {"LANGUAGE_OF": (values.language_of, "language code"), "TIME_ZONE_OF": (values.time_zone_of, "time zone")}
    for key, (path, what) in hooks.items():
        try:
            if path:
                import_string(path)
        except ImportError as error:
            hint = f"Name a function(user) that gives a {what}, or leave the key out."
            yield Error(f'NOTIFICATIONS["{key}"] cannot be imported: {error}.', hint=hint, id="notifications.E004")
