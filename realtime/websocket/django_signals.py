"""
Receivers of Django's signals that turn the end of a user's access into orders to all web processes.

Owns which signals are received and what each means. Does not own the sending (access). Changes without a signal, such
as `queryset.update()` or the deletion of a session row, are found by the recheck (roster). There is no receiver for
deleted sessions, because it would make `clearsessions` load every row.

Nothing here raises, or blocks the caller for longer than Redis's timeout. While Redis is unavailable, the recheck finds
the same changes.
"""

import logging
import time
import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

from channels.layers import get_channel_layer
from django.apps import apps
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save

from realtime import access
from realtime.access import Cause, Order
from realtime.exceptions import Unavailable
from realtime.layer import RedisChannelLayer
from realtime.redis.outage import Outage

__all__ = ["connect_receivers"]

logger = logging.getLogger(__name__)

# A login saves the user with this field alone.
_IRRELEVANT_FIELDS = frozenset({"last_login"})
_redis_observer = Outage("Redis (to end connections)").observer()
# After a failure, nothing is sent for this long: a caller that saves a thousand users must not wait for each one.
_PAUSE_SECONDS = 2.0
_paused_until: weakref.WeakKeyDictionary[RedisChannelLayer, float] = weakref.WeakKeyDictionary()


def connect_receivers() -> None:
    """Connect to the signals of the project's user model. Idempotent."""
    user_model = get_user_model()
    user_logged_out.connect(_logged_out, dispatch_uid="realtime")
    # The sender of a signal is the class that was saved, which may be a proxy or a child of the user model.
    for model in apps.get_models():
        if issubclass(model, user_model):
            post_save.connect(_user_saved, sender=model, dispatch_uid="realtime")
            post_delete.connect(_user_deleted, sender=model, dispatch_uid="realtime")
    for name in ("groups", "user_permissions"):
        if (relation := getattr(user_model, name, None)) is not None:
            m2m_changed.connect(_membership_changed, sender=relation.through, dispatch_uid="realtime")
            if (permissions := getattr(relation.rel.model, "permissions", None)) is not None:
                m2m_changed.connect(_everybody_changed, sender=permissions.through, dispatch_uid="realtime")


def _logged_out(*, request: Any, user: Any, **kwargs: Any) -> None:
    session = getattr(request, "session", None)
    # `alogout` knows the user only with Django's middleware; but the session still has the user's key.
    user_id = session.get(SESSION_KEY) if user is None and session is not None else getattr(user, "pk", None)
    if user_id is None:
        return
    key = None if session is None or isinstance(session, CookieStore) else session.session_key
    # The key of a cookie session changes each time, so it cannot be named: all of the user's connections have to
    # authenticate again.
    digest = None if key is None else access.digest(key)
    _send_on_commit([Order(cause=Cause.SIGNED_OUT, user=str(user_id), session=digest)])


def _user_saved(
    *, instance: Any, created: bool, raw: bool, using: str, update_fields: Iterable[str] | None, **kwargs: Any
) -> None:
    if created or raw or (update_fields is not None and _IRRELEVANT_FIELDS.issuperset(update_fields)):
        return
    if not getattr(instance, "is_active", True):
        order = Order(cause=Cause.DEACTIVATED, user=str(instance.pk))
    elif hasattr(instance, "get_session_auth_hash"):
        hashes = (instance.get_session_auth_hash(), *instance.get_session_auth_fallback_hash())
        order = Order(cause=Cause.SAVED, user=str(instance.pk), valid=tuple(map(access.digest, hashes)))
    else:
        order = Order(cause=Cause.PERMISSIONS, user=str(instance.pk))
    _send_on_commit([order], using)


def _user_deleted(*, instance: Any, using: str, **kwargs: Any) -> None:
    _send_on_commit([Order(cause=Cause.DEACTIVATED, user=str(instance.pk))], using)


def _membership_changed(
    *, instance: Model, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **kwargs: Any
) -> None:
    """The groups or permissions of users were changed."""
    if not action.startswith("post_"):
        return
    user_ids = pk_set if reverse else {instance.pk}
    if user_ids is None or len(user_ids) > access.USERS_LIMIT:
        _everybody_changed(action=action, using=using)
    elif user_ids:
        _send_on_commit([Order(cause=Cause.PERMISSIONS, user=str(user_id)) for user_id in user_ids], using)


def _everybody_changed(*, action: str, using: str, **kwargs: Any) -> None:
    """The permissions of a group were changed, which may concern anybody."""
    if action.startswith("post_"):
        _send_on_commit([Order(cause=Cause.PERMISSIONS)], using)


def _send_on_commit(orders: list[Order], using: str | None = None) -> None:
    # A change that is rolled back must send nothing, and before the commit other processes would still read the old
    # state.
    transaction.on_commit(partial(_send, orders), using=using, robust=True)


def _send(orders: list[Order]) -> None:
    layer = get_channel_layer()
    # With another channel layer there are no connections.
    if not isinstance(layer, RedisChannelLayer) or time.monotonic() < _paused_until.get(layer, 0.0):
        return
    try:
        access.send(orders)
    except Unavailable as error:
        _redis_observer.failed(error)
        _paused_until[layer] = time.monotonic() + _PAUSE_SECONDS
    else:
        _redis_observer.worked()
