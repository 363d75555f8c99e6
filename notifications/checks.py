"""
Django's system checks of the domain: a wrong setting is said when the process starts.

Owns the ids `notifications.E…` and `notifications.W…`; docs/reference/checks.md lists them. Reads settings and
templates, and opens nothing else.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models, router
from django.template import TemplateDoesNotExist, TemplateSyntaxError
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

from notifications.conf import NotificationsSettings, load_settings
from notifications.content.recipients import key_field
from notifications.database.transactions import LOCKING_MODES
from notifications.inbox.page import find_base, has_room
from notifications.kinds import all_kinds
from notifications.models import Event
from notifications.transports.registry import load_transport

__all__ = [
    "check_database",
    "check_inbox_page",
    "check_installed_apps",
    "check_settings",
    "check_sqlite",
    "check_user_model",
]


_TAG = "notifications"
# The databases for which the SQL and the locks are written and tested.
_VENDORS = frozenset({"sqlite", "postgresql"})
# Fields whose values have no unique text, or may change in a round trip through a database.
_REFUSED_KEYS = (
    *(models.DecimalField, models.FloatField, models.BooleanField, models.BinaryField, models.JSONField),
    *(models.DateField, models.TimeField, models.DurationField),
)


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
    return [
        *_check_transports(values),
        *_check_base_url(values),
        *_check_delivery(values),
        *_check_names(values),
        *_check_hooks(values),
    ]


@register(_TAG)
def check_user_model(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The primary key of users has one text that never changes (E007)."""
    key = key_field()
    if not isinstance(key, _REFUSED_KEYS):
        return []
    return [
        Error(
            f"The primary key of {key.model._meta.label} is a {type(key).__name__}, whose values have no stable text "
            "form: a notification could not be matched to its user.",
            hint="Use an integer, a text or a UUID as the primary key of users.",
            id="notifications.E007",
        )
    ]


@register(_TAG)
def check_database(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The tables of notifications are on SQLite or PostgreSQL (E008). `migrate` checks it before it creates any."""
    aliases = sorted({router.db_for_write(model) for model in apps.get_app_config("notifications").get_models()})
    return [
        Error(
            f"Notifications are stored in the database {alias!r}, which is {_name_of(connections[alias].vendor)}: "
            "only SQLite and PostgreSQL are supported.",
            hint=f"Use one of the two for DATABASES[{alias!r}], or route the models of notifications to another "
            "database by a router in DATABASE_ROUTERS.",
            id="notifications.E008",
        )
        for alias in aliases
        if connections[alias].vendor not in _VENDORS
    ]


@register(_TAG)
def check_sqlite(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Transactions on a SQLite file take the write lock when they begin (W001)."""
    alias = router.db_for_write(Event)
    connection: Any = connections[alias]
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return []
    if (connection.settings_dict["OPTIONS"].get("transaction_mode") or "").upper() in LOCKING_MODES:
        return []
    return [
        Warning(
            f"SQLite transactions on {alias!r} begin without the write lock: one of yours that reads, and then writes "
            'or calls notify(), can fail with "database is locked" beside run_bot_subscriber.',
            hint=f'Set DATABASES[{alias!r}]["OPTIONS"] = {{"transaction_mode": "IMMEDIATE", "timeout": 20, '
            '"init_command": "PRAGMA journal_mode=WAL"}.',
            id="notifications.W001",
        )
    ]


@register(_TAG)
def check_inbox_page(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Where the inbox has an address, the page around it has room for it (W002)."""
    if not getattr(settings, "ROOT_URLCONF", None):
        # A project without URLs, for example one that only runs the bot, has no inbox either.
        return []
    try:
        reverse("notifications:inbox")
        base = find_base()
        if has_room(base):
            return []
    except (NoReverseMatch, TemplateDoesNotExist, TemplateSyntaxError):
        # What is wrong with a template, its page says; commands that need none go on.
        return []
    return [
        Warning(
            f"The page of the inbox is blank: it extends {base.origin.name}, which has no block named content.",
            hint="Add one, and one named title; or a template notifications/base.html that extends yours and has both "
            "inside blocks of yours, as docs/how-to/add-to-your-project.md shows.",
            id="notifications.W002",
        )
    ]


def _name_of(vendor: str) -> str:
    # Reading the display_name of a connection would open it.
    return {"mysql": "MySQL or MariaDB", "oracle": "Oracle"}.get(vendor, vendor)


def _check_transports(values: NotificationsSettings) -> Iterator[CheckMessage]:
    for name in values.transports:
        try:
            load_transport(name)
        except ImproperlyConfigured as error:
            hint = "docs/how-to/deliver-by-email-and-more.md has an entry for each transport."
            yield Error(str(error), hint=hint, id="notifications.E002")


def _check_base_url(values: NotificationsSettings) -> Iterator[CheckMessage]:
    """The site's address is known if a transport shows links as text, so that they can be absolute (W003)."""
    sites = apps.is_installed("django.contrib.sites") and getattr(settings, "SITE_ID", None)
    if values.base_url or sites:
        return
    named = []
    for name in values.transports:
        with contextlib.suppress(ImproperlyConfigured):
            if load_transport(name).shows_links:
                named.append(name)
    if named:
        yield Warning(
            f"Messages by {', '.join(named)} leave out links like /orders/7/: the address of the site is not set.",
            hint='Set NOTIFICATIONS["BASE_URL"] = "https://example.com", or use django.contrib.sites with a SITE_ID.',
            id="notifications.W003",
        )


def _check_delivery(values: NotificationsSettings) -> Iterator[CheckMessage]:
    """With DEBUG on, no transport reaches real people by mistake (W004)."""
    if not settings.DEBUG or values.delivery != "send":
        return
    named = []
    for name in values.transports:
        with contextlib.suppress(ImproperlyConfigured):
            if load_transport(name).reaches_people:
                named.append(name)
    if named:
        yield Warning(
            f"DEBUG is on, and delivery by {', '.join(named)} reaches real people. On a copy of a production "
            "database, the bot would send everything that is waiting.",
            hint='Set NOTIFICATIONS["DELIVERY"] to "console", "hold", or a list of addresses such as '
            '["@example.com"]; or silence this check if nobody but you is in the database.',
            id="notifications.W004",
        )


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
