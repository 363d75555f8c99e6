"""
Django system checks of this app: wrong settings are reported when the process starts.

Owns the ids `notifications.E…` and `notifications.W…`; docs/reference/checks.md lists them. Reads settings and
templates only: no check opens a database or Redis.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.auth import get_user_model
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
from notifications.label import LABEL
from notifications.models import Event
from notifications.transports.registry import load_transport

__all__ = [
    "check_database",
    "check_inbox_page",
    "check_installed_apps",
    "check_settings",
    "check_sqlite",
    "check_user_model",
    "check_user_relations",
]


_TAG = "notifications"
# The databases that the SQL and the locks are written for and tested with.
_VENDORS = frozenset({"sqlite", "postgresql"})
# Fields whose values have no unique text form, or may change when they are written and read back.
_REFUSED_KEYS = (
    *(models.DecimalField, models.FloatField, models.BooleanField, models.BinaryField, models.JSONField),
    *(models.DateField, models.TimeField, models.DurationField),
)


@register(_TAG)
def check_installed_apps(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """`realtime` is installed too (E005). Without it, its checks do not run, and topics and commands are missing."""
    if apps.is_installed("realtime"):
        return []
    problem = "INSTALLED_APPS has notifications but not realtime: topics.py modules are not loaded, so no topic exists."
    hint = 'Set INSTALLED_APPS = [..., "realtime", "notifications"].'
    return [Error(problem, hint=hint, id="notifications.E005")]


@register(_TAG)
def check_settings(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """
    NOTIFICATIONS has only known keys with valid values (E001), its transports can be created (E002), kinds name only
    these transports (E003), and its hooks can be imported (E004).
    """
    try:
        values = load_settings()
    except ImproperlyConfigured as error:
        hint = "docs/reference/settings.md lists the keys and their values; a key that is left out has its default."
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
    """The primary key of users has a stable text form (E007)."""
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
def check_user_relations(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """No other field or relation on users has the name of one of our relations, e.g. user.notifications (E009)."""
    user = get_user_model()._meta
    taken = {field.name: user.label for field in (*user.fields, *user.many_to_many)}
    ours = []
    for relation in user.related_objects:
        model = relation.related_model._meta
        if model.app_label == LABEL:
            ours.append(relation)
        else:
            taken[relation.get_accessor_name() or ""] = f"{model.label}.{relation.field.name}"
    return [
        Error(
            f"{taken[name]} and {relation.related_model._meta.label} both use the name {user.object_name}.{name}.",
            hint='Write "notifications.apps.SignalboxConfig" instead of "notifications" in INSTALLED_APPS before the '
            "first migrate; docs/how-to/use-beside-another-notifications-app.md says what to do later.",
            id="notifications.E009",
        )
        for relation in ours
        if (name := relation.get_accessor_name()) in taken
    ]


@register(_TAG)
def check_database(*, app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The tables of this app are on SQLite or PostgreSQL (E008). `migrate` checks this before it creates a table."""
    aliases = sorted({router.db_for_write(model) for model in apps.get_app_config(LABEL).get_models()})
    return [
        Error(
            f"Notifications are stored in the database {alias!r}, which is {_name_of(connections[alias].vendor)}: "
            "only SQLite and PostgreSQL are supported, because deliveries are claimed by UPDATE … RETURNING.",
            hint=f"Use one of the two for DATABASES[{alias!r}], or route the models of notifications to another "
            "database with a router in DATABASE_ROUTERS.",
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
    """If the project has the inbox's URLs, the base template of the inbox has a block for its content (W002)."""
    if not getattr(settings, "ROOT_URLCONF", None):
        # A project without URLs, for example one that only runs the bot, has no inbox either.
        return []
    try:
        reverse(f"{LABEL}:inbox")
        base = find_base()
        if has_room(base):
            return []
    except (NoReverseMatch, TemplateDoesNotExist, TemplateSyntaxError):
        # A broken template is reported by the page itself. It must not stop commands that do not need it.
        return []
    return [
        Warning(
            f"The page of the inbox is blank: it extends {base.origin.name}, which has no block named content.",
            hint=f"Add the blocks content and title to it. Or add a template {LABEL}/base.html that extends it "
            "and puts both inside its blocks: see docs/how-to/add-to-your-project.md.",
            id="notifications.W002",
        )
    ]


def _name_of(vendor: str) -> str:
    # Reading the display_name of a connection would open the connection.
    return {"mysql": "MySQL or MariaDB", "oracle": "Oracle"}.get(vendor, vendor)


def _check_transports(values: NotificationsSettings) -> Iterator[CheckMessage]:
    for name in values.transports:
        try:
            load_transport(name)
        except ImproperlyConfigured as error:
            hint = "docs/how-to/deliver-by-email-and-more.md has an entry for each transport."
            yield Error(str(error), hint=hint, id="notifications.E002")


def _check_base_url(values: NotificationsSettings) -> Iterator[CheckMessage]:
    """The address of the site is known if a transport needs absolute links (W003)."""
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
    """If DEBUG is on, no transport delivers to real people (W004)."""
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
            '["@example.com"]; or silence this check if the database has no user but you.',
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
