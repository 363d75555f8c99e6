"""
Kinds of notifications: on which transports users get them by default, and with which texts.

Owns the registry: every app declares its `Kind` subclasses in `notification_kinds.py`, which is discovered like
`admin.py`. Does not own what users want (preferences) or sending (delivery).
"""

import datetime
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from django.conf import settings
from django.template import Context, Template, TemplateDoesNotExist
from django.template.loader import select_template
from django.utils import timezone, translation
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from notifications import conf
from notifications.content.envelope import Envelope, is_kind
from notifications.content.hooks import ask
from notifications.content.links import is_absolute
from notifications.content.timing import PERIODS, Period, find_zone
from notifications.transports.base import Texts

__all__ = ["Kind", "all_kinds", "find_kind", "is_default", "language_of", "render", "render_digest", "time_zone_of"]

# By key, in order of declaration.
_kinds: dict[str, type["Kind"]] = {}


class Kind:
    """
    A kind of notification. Subclass it in an app's `notification_kinds.py`::

        class Shipped(Kind):
            key = "order.shipped"
            label = _("Your order is on its way")
            transports = ("email", "webpush")
            required = frozenset({"email"})

    and use it as `notify(user, "…", kind="order.shipped")`. You may rename the class, but not the key: it is stored in
    rows.

    The body of an email is rendered from the first of these templates that exists:
    `notifications/kinds/order.shipped/email.body.txt`, `notifications/kinds/order.shipped/body.txt`. If neither exists,
    it is the message that was passed to notify(). The same holds for `subject.txt`, and for `body.html`, which is
    optional. The context has `notification` (id, title, message, url, data, created_at), `recipient` and `kind`; the
    language is the recipient's. The notification's url is absolute if the address of the site is known.

    Attributes:
        key: As in `notify(kind=…)`: 1 to 64 of a–z, 0–9, `_`, `.`, `-`.
        label: The name that users see on a page of preferences.
        transports: The transports that are used unless the user chose otherwise. By default
            NOTIFICATIONS["DEFAULT_TRANSPORTS"].
        required: Transports that a user cannot switch off.
        forbidden: Transports that are never used for this kind.
        fallback: Transports that are used only if the notification is still unread after this time:
            `{"email": timedelta(minutes=15)}`. They need not be in `transports`.
        digest: Transports that send one message with all unread notifications at the end of each hour or day:
            `{"email": "daily"}`; "hourly" or "daily". They need not be in `transports`.
        is_urgent: Whether it is delivered during quiet hours too.

    You may add attributes of your own. A name that is close to one of these is refused as a misspelling.
    """

    key: ClassVar[str]
    label: ClassVar[Any]
    transports: ClassVar[tuple[str, ...] | None] = None
    required: ClassVar[frozenset[str]] = frozenset()
    forbidden: ClassVar[frozenset[str]] = frozenset()
    fallback: ClassVar[Mapping[str, datetime.timedelta]] = {}
    digest: ClassVar[Mapping[str, Period]] = {}
    is_urgent: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _refuse_misspelt(cls)
        if "key" not in cls.__dict__:
            # A base class of kinds.
            return
        if not is_kind(cls.key) or set(cls.key) == {"."}:
            raise ValueError(f"{cls.key!r} cannot be the key of a kind: give it 1 to 64 of a-z, 0-9, '_', '.', '-'")
        if cls.key in _kinds:
            raise ValueError(f"two kinds have the key {cls.key!r}: {_kinds[cls.key].__name__} and {cls.__name__}")
        _refuse_wrong_types(cls)
        if both := cls.required & cls.forbidden:
            raise ValueError(f"the kind {cls.key!r} both requires and forbids {', '.join(sorted(both))}")
        if twice := cls.fallback.keys() & cls.digest.keys():
            raise ValueError(f"the kind {cls.key!r} has both a fallback and a digest by {', '.join(sorted(twice))}")
        if wrong := set(cls.digest.values()) - set(PERIODS):
            raise ValueError(f"the kind {cls.key!r} has a digest {wrong.pop()!r}: use {' or '.join(PERIODS)}")
        _kinds[cls.key] = cls

    def is_default(self, transport: str) -> bool:
        """
        Whether the transport is used for a user who has not chosen.

        A subclass may override this method. If the override raises, the base method decides.
        """
        names = self.transports
        if transport in self.fallback or transport in self.digest:
            return True
        return transport in (conf.get_settings().default_transports if names is None else names)

    def context(self, notification: Envelope, recipient: Any) -> dict[str, Any]:
        """
        The context of the templates; a subclass may add to it. It runs in a thread and may use the ORM.

        If it raises, the error is logged, and the texts that were passed to notify() are used.
        """
        return {"notification": notification, "recipient": recipient, "kind": self}


def _refuse_misspelt(kind: type[Kind]) -> None:
    """Refuse an attribute whose name is close to one of Kind's. Other additional attributes are for templates."""
    known = [name for name in Kind.__annotations__ if not name.startswith("_")]
    for name, value in vars(kind).items():
        if name in known or name.startswith("_") or callable(value) or hasattr(value, "__get__"):
            continue
        if meant := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise ValueError(f"the kind {kind.__name__} has an unknown attribute {name!r}: did you mean {meant[0]!r}?")


def _refuse_wrong_types(kind: type[Kind]) -> None:
    """Refuse attributes of the wrong type: the bot would fail on every notification of the kind."""
    for name in ("transports", "required", "forbidden"):
        names: Any = getattr(kind, name)
        if name == "transports" and names is None:
            continue
        if (
            isinstance(names, str)
            or not isinstance(names, Collection)
            or not all(isinstance(each, str) for each in names)
        ):
            raise ValueError(f'the kind {kind.key!r} has {name} = {names!r}: use a tuple of names such as ("email",)')
    kind.required, kind.forbidden = frozenset(kind.required), frozenset(kind.forbidden)
    for name, wait in kind.fallback.items():
        if not isinstance(wait, datetime.timedelta):
            raise ValueError(f"the kind {kind.key!r} has the fallback {name!r} after {wait!r}: use a timedelta")


class _OtherKind(Kind):
    """A kind that no app has declared; its texts are those passed to notify()."""

    label = _("Other")

    def __init__(self, key: str) -> None:
        self.key = key  # type: ignore[misc]


def find_kind(key: str) -> Kind:
    """The kind with this key. An undeclared key gives a kind with the default transports."""
    kind = _kinds.get(key)
    return _OtherKind(key) if kind is None else kind()


def all_kinds() -> Iterator[Kind]:
    """The declared kinds, in order of declaration."""
    return (kind() for kind in list(_kinds.values()))


def render(kind: Kind, transport: str, notification: Envelope, recipient: Any) -> Texts:
    """
    The texts of a notification for a transport, in the recipient's language.

    Call it in a thread: templates may use the ORM. Exceptions of templates propagate.
    """
    link = notification.url if is_absolute(notification.url) else ""
    texts = Texts(subject=notification.title, body=notification.message, link=link)
    if kind.key not in _kinds:
        return texts
    with translation.override(language_of(recipient)):
        context = _context(kind, notification, recipient)
        if context is None:
            return texts
        subject = _render(kind, transport, "subject.txt", context)
        body = _render(kind, transport, "body.txt", context)
        return Texts(
            subject=texts.subject if subject is None else " ".join(subject.split()),
            body=texts.body if body is None else body.strip(),
            link=texts.link if body is None else "",
            html=_render(kind, transport, "body.html", context) or "",
        )


def render_digest(kind: Kind, transport: str, notifications: Sequence[Envelope], recipient: Any) -> Texts:
    """
    The texts of a digest for a transport, in the recipient's language and time zone.

    The templates `digest_subject.txt`, `digest_body.txt` and `digest_body.html` are found like those of a single
    notification. Their context has `notifications` (oldest first), `recipient` and `kind`. Without templates, the body
    is a plain list.
    """
    with translation.override(language_of(recipient)), timezone.override(time_zone_of(recipient)):
        context = {"notifications": notifications, "recipient": recipient, "kind": kind}
        subject = _render(kind, transport, "digest_subject.txt", context)
        body = _render(kind, transport, "digest_body.txt", context)
        return Texts(
            subject=_digest_subject(kind, len(notifications)) if subject is None else " ".join(subject.split()),
            body="\n\n".join(map(_digest_item, notifications)) if body is None else body.strip(),
            html=_render(kind, transport, "digest_body.html", context) or "",
        )


def language_of(recipient: Any) -> str:
    """The recipient's language by NOTIFICATIONS["LANGUAGE_OF"]; LANGUAGE_CODE if Django does not have that language."""
    path = conf.get_settings().language_of
    if not path:
        return settings.LANGUAGE_CODE

    def read(language: Any) -> str:
        if not isinstance(language, str | None):
            raise TypeError(f"it returned a {type(language).__name__}, which is not a language code")
        return language if language and translation.check_for_language(language) else settings.LANGUAGE_CODE

    return ask(
        'NOTIFICATIONS["LANGUAGE_OF"]',
        lambda: import_string(path)(recipient),
        read=read,
        default=lambda: settings.LANGUAGE_CODE,
    )


def time_zone_of(recipient: Any) -> datetime.tzinfo:
    """The recipient's time zone by NOTIFICATIONS["TIME_ZONE_OF"]; TIME_ZONE if that zone does not exist."""
    path = conf.get_settings().time_zone_of
    if not path:
        return timezone.get_default_timezone()

    def read(zone: Any) -> datetime.tzinfo:
        # A pytz zone cannot be used like Python's own, but it has a name.
        zone = getattr(zone, "zone", zone)
        if isinstance(zone, datetime.tzinfo):
            return zone
        if not isinstance(zone, str | None):
            raise TypeError(f"it returned a {type(zone).__name__}, which is neither a time zone nor the name of one")
        return (find_zone(zone) if zone else None) or timezone.get_default_timezone()

    return ask(
        'NOTIFICATIONS["TIME_ZONE_OF"]',
        lambda: import_string(path)(recipient),
        read=read,
        default=timezone.get_default_timezone,
    )


def is_default(kind: Kind, transport: str) -> bool:
    """`kind.is_default(transport)`. It may be the project's own method, so its errors are caught and logged."""
    return ask(
        f"is_default() of the kind {kind.key!r}",
        lambda: kind.is_default(transport),
        read=bool,
        default=lambda: Kind.is_default(kind, transport),
    )


def _context(kind: Kind, notification: Envelope, recipient: Any) -> Mapping[str, Any] | None:
    """The context of the kind's templates; None if `context()` fails, because the templates need it."""

    def read(context: Any) -> Mapping[str, Any]:
        if not isinstance(context, Mapping):
            raise TypeError(f"it returned a {type(context).__name__}, not a dict")
        return context

    return ask(
        f"context() of the kind {kind.key!r}",
        lambda: kind.context(notification, recipient),
        read=read,
        default=lambda: None,
    )


def _render(kind: Kind, transport: str, part: str, context: Mapping[str, Any]) -> str | None:
    folder = f"notifications/kinds/{kind.key}"
    try:
        template: Any = select_template([f"{folder}/{transport}.{part}", f"{folder}/{part}"])
    except TemplateDoesNotExist:
        return None
    found = template.template
    if isinstance(found, Template):
        # Django escapes for HTML whatever the file's extension is. The times are aware, even with USE_TZ off.
        is_escaped = not part.endswith(".txt") and found.engine.autoescape
        return str(found.render(Context(dict(context), autoescape=is_escaped, use_tz=True)))
    return str(template.render(dict(context)))


def _digest_subject(kind: Kind, count: int) -> str:
    return ngettext("%(label)s: %(count)d notification", "%(label)s: %(count)d notifications", count) % {
        "label": kind.label,
        "count": count,
    }


def _digest_item(notification: Envelope) -> str:
    link = notification.url if is_absolute(notification.url) else ""
    return "\n".join(filter(None, (notification.title, notification.message, link)))
