"""
Django's system checks of the domain: a wrong setting is said when the process starts.

Owns the ids `notifications.E…`; docs/reference/checks.md lists them. Reads settings and opens nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from notifications.conf import NotificationsSettings, load_settings
from notifications.kinds import all_kinds
from notifications.transports.registry import load_transport

__all__ = ["check_settings"]


_TAG = "notifications"


@register(_TAG)
def check_settings(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """
    NOTIFICATIONS, if it is there, has known keys of the right types and sizes (E001), transports that can be made
    (E002), kinds that name no others (E003), and a language hook that exists (E004).
    """
    try:
        values = load_settings()
    except ImproperlyConfigured as error:
        hint = "Leave NOTIFICATIONS out to have the defaults."
        return [Error(str(error), hint=hint, id="notifications.E001")]
    return [*_check_transports(values), *_check_names(values), *_check_language(values)]


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
        named[f"the kind {kind.key!r}"] = {*(kind.transports or ()), *kind.required, *kind.forbidden}
    for where, names in named.items():
        if unknown := sorted(names - set(values.transports)):
            text = f'{where} names {", ".join(unknown)}, which NOTIFICATIONS["TRANSPORTS"] does not have.'
            hint = f"There are: {', '.join(values.transports)}. Add the transport, or name another."
            yield Error(text, hint=hint, id="notifications.E003")


def _check_language(values: NotificationsSettings) -> Iterator[CheckMessage]:
    if values.language_of:
        try:
            import_string(values.language_of)
        except ImportError as error:
            hint = "Name a function(user) that gives a language code, or leave the key out."
            text = f'NOTIFICATIONS["LANGUAGE_OF"] cannot be imported: {error}.'
            yield Error(text, hint=hint, id="notifications.E004")
