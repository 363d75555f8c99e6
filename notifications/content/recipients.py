"""
The users behind the argument `recipients`.

Owns the conversion of users, ids, iterables and querysets to primary keys of existing users. The key of the user model
may be an integer, a text or a UUID. Does not own writing.
"""

import contextlib
import itertools
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.db import connections
from django.db.models import Model, QuerySet
from django.db.models.manager import BaseManager
from django.db.models.query import ModelIterable

from notifications.exceptions import InvalidField, InvalidRecipient, TooManyRecipients, UnknownRecipients

__all__ = ["find_actor", "find_by_names", "find_recipients", "key_field"]

# Ids in one query: fewer than the parameters that SQLite and PostgreSQL allow.
_IDS_PER_QUERY = 5000
# Rows fetched at a time.
_ROWS_PER_FETCH = 2000

_ID_TYPES = (int, str, uuid.UUID)


def find_recipients(recipients: Any, *, using: str, limit: int) -> list[Any]:
    """
    The primary keys of `recipients`, without duplicates, in the order given.

    Args:
        recipients: A user, an id (also as text: "42"), an iterable of both mixed, or a queryset or manager of users, of
            which only the keys are read. True and False are not ids. A text is always one id.
        using: The database with the users.
        limit: The most recipients allowed.

    Raises:
        InvalidRecipient: A recipient is neither a saved user nor an id.
        UnknownRecipients: Some ids do not exist.
        TooManyRecipients: There are more than `limit`.
    """
    if isinstance(recipients, BaseManager):
        recipients = recipients.all()
    if isinstance(recipients, QuerySet) and _is_of_users(recipients):
        return _distinct(recipients.using(using).values_list("pk", flat=True).iterator(_ROWS_PER_FETCH), limit)
    user_model = get_user_model()
    ids = _distinct((_user_id(item, user_model) for item in _items(recipients)), limit)
    if missing := _missing(ids, using):
        raise UnknownRecipients(missing_ids=missing)
    return ids


def find_actor(actor: Any, *, using: str) -> Any:
    """
    The primary key of the user or id `actor`; None for None and for an anonymous visitor.

    Within a transaction on PostgreSQL, the user is locked against deletion until the transaction ends. Otherwise a row
    that refers to a deleted user would make the commit fail.

    Raises:
        InvalidField: The actor is not a saved user, or does not exist.
    """
    if actor is None or isinstance(actor, AnonymousUser):
        return None
    try:
        actor_id = _user_id(actor, get_user_model())
    except InvalidRecipient as error:
        raise InvalidField(field="actor", problem=f"{actor!r} is neither a saved user nor a user id") from error
    _lock_user(actor_id, using)
    if _missing([actor_id], using):
        raise InvalidField(field="actor", problem=f"{actor_id!r} is not the id of a user")
    return actor_id


def find_by_names(names: Iterable[str], *, using: str) -> tuple[list[Any], list[str]]:
    """
    The primary keys of users that are given by username or id. A name that is both counts as a username.

    Returns:
        The keys, without duplicates, in the order given; and the names that no user has.
    """
    user_model = get_user_model()
    wanted = list(dict.fromkeys(names))
    keys: dict[str, Any] = {}
    for part in itertools.batched((name for name in wanted if "\0" not in name), _IDS_PER_QUERY):
        found = user_model._base_manager.using(using).filter(**{f"{user_model.USERNAME_FIELD}__in": part})
        keys.update(found.values_list(user_model.USERNAME_FIELD, "pk"))
    ids: dict[str, Any] = {}
    for name in wanted:
        if name not in keys:
            with contextlib.suppress(InvalidRecipient):
                ids[name] = _user_id(name, user_model)
    missing = set(_missing(list(ids.values()), using))
    keys.update((name, user_id) for name, user_id in ids.items() if user_id not in missing)
    return list(dict.fromkeys(keys[name] for name in wanted if name in keys)), [n for n in wanted if n not in keys]


def key_field() -> Any:
    """The field with the type of users' primary keys. If the primary key is a relation, it is the target's field."""
    field: Any = get_user_model()._meta.pk
    while field.remote_field is not None:
        field = field.target_field
    return field


def _is_of_users(queryset: QuerySet[Any]) -> bool:
    # A queryset of values ("the ids of all followers") is an iterable of ids, of whichever model.
    return issubclass(queryset.model, get_user_model()) and queryset._iterable_class is ModelIterable


def _items(recipients: Any) -> Iterable[Any]:
    if isinstance(recipients, (Model, *_ID_TYPES)):
        return [recipients]
    if isinstance(recipients, Mapping | bytes | bytearray):
        raise InvalidRecipient(recipients)
    try:
        items: Iterable[Any] = iter(recipients)
    except TypeError:
        raise InvalidRecipient(recipients) from None
    return items


def _distinct(ids: Iterable[Any], limit: int) -> list[Any]:
    seen: dict[Any, None] = {}
    for user_id in ids:
        seen[user_id] = None
        if len(seen) > limit:
            raise TooManyRecipients(limit=limit)
    return list(seen)


def _user_id(value: Any, user_model: type[Model]) -> Any:
    if isinstance(value, user_model):
        if value.pk is None:
            raise InvalidRecipient(value, "is a user that is not saved")
        if value.pk == "":
            raise InvalidRecipient(value, "is a user whose primary key is empty")
        # The key of a user object that was just created may have another type, for example a UUID as text.
        return _key_of(value.pk, value, user_model)
    if isinstance(value, bool) or not isinstance(value, _ID_TYPES):
        raise InvalidRecipient(value)
    user_id = _key_of(value, value, user_model)
    if user_id == "":
        raise InvalidRecipient(value, "has an empty primary key")
    # int(UUID) works, so a UUID would silently become a huge integer.
    if isinstance(value, uuid.UUID) and isinstance(user_id, int):
        raise InvalidRecipient(value)
    return user_id


def _key_of(key: Any, given: Any, user_model: type[Model]) -> Any:
    """The key, converted to the type of the model's keys. Raises InvalidRecipient with `given` if that fails."""
    try:
        return user_model._meta.pk.to_python(key)
    except ValidationError:
        raise InvalidRecipient(given) from None


def _lock_user(user_id: Any, using: str) -> None:
    connection, key = connections[using], get_user_model()._meta.pk
    if not connection.features.has_select_for_update or not _is_possible(user_id):
        return
    table, column = _names(connection)
    with connection.cursor() as cursor:
        # The lock that a foreign key check takes. A login, which updates the row, does not have to wait for it.
        cursor.execute(
            f"SELECT 1 FROM {table} WHERE {column} = %s FOR KEY SHARE",  # noqa: S608 - names of the model's
            [key.get_db_prep_value(user_id, connection)],
        )


def _missing(ids: list[Any], using: str) -> list[Any]:
    """The ids that no user has. In raw SQL, because with the ORM this took a quarter of the time of notify()."""
    connection, key = connections[using], get_user_model()._meta.pk
    table, column = _names(connection)
    # In the form in which the database stores them, because not every database has a type for UUIDs.
    stored = {user_id: key.get_db_prep_value(user_id, connection) for user_id in _possible(ids)}
    known: set[Any] = set()
    for part in itertools.batched(stored.values(), _IDS_PER_QUERY):
        places = ", ".join(["%s"] * len(part))
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {column} FROM {table} WHERE {column} IN ({places})",  # noqa: S608 - names of the model's
                part,
            )
            known.update(value for (value,) in cursor.fetchall())
    return [user_id for user_id in ids if user_id not in stored or stored[user_id] not in known]


def _names(connection: Any) -> tuple[str, str]:
    """The quoted names of the table of users and of its key column."""
    model, quote = get_user_model(), connection.ops.quote_name
    return quote(model._meta.db_table), quote(str(model._meta.pk.column))


def _possible(ids: list[Any]) -> list[Any]:
    """The ids that can be used in a query. An integer out of range or a text with a NUL would be a database error."""
    # For integers it is enough to check the smallest and the largest, which is much faster than checking each.
    is_all_numbers = all(type(user_id) is int for user_id in ids)
    if ids and is_all_numbers and _is_possible(min(ids)) and _is_possible(max(ids)):
        return ids
    return [user_id for user_id in ids if _is_possible(user_id)]


def _is_possible(user_id: Any) -> bool:
    if isinstance(user_id, str):
        # The field's validators are not used, because existing keys may not pass them.
        return "\0" not in user_id
    try:
        key_field().run_validators(user_id)
    except ValidationError:
        return False
    return True
