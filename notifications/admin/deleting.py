"""
Deleting users who have very many notifications in the admin.

Owns counting these rows on the page instead of listing them, and deleting them in batches. Does not own permissions:
the admin of each model decides about them.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib.admin.utils import NestedObjects
from django.db import router
from django.db.models import CASCADE, ManyToOneRel, Model, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst

from notifications.events import prune
from notifications.models import Delivery, Notification

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

    _Base = ModelAdmin[Any]
else:
    _Base = object

__all__ = ["CountedDeletion"]

_APP = Notification._meta.app_label


class CountedDeletion(_Base):
    """
    A mixin for the ModelAdmin of users: `class UserAdmin(CountedDeletion, DjangoUserAdmin)`.

    Django's page lists every row that is deleted with a user: 24 MB of HTML for 100,000 notifications. With this mixin,
    the page shows how many notifications there are, and lists all other rows as usual.
    """

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """As Django's, but the rows of this app are counted and not listed."""
        users = list(objs)
        if not users:
            return [], {}, set(), []
        collector = _Collector(using=router.db_for_write(users[0].__class__), origin=users)
        collector.collect(users)
        missing: set[str] = set()

        def shown(row: Any) -> str:
            self._note_permission(row.__class__, row, request, missing)
            return f"{capfirst(str(row._meta.verbose_name))}: {row}"

        listed = collector.nested(shown)
        found: dict[Any, Any] = collector.model_objs
        counts = {str(model._meta.verbose_name_plural): len(rows) for model, rows in found.items()}
        for model, count in _count(users).items():
            self._note_permission(model, None, request, missing)
            counts[str(model._meta.verbose_name_plural)] = count
        return listed, counts, missing, [shown(row) for row in collector.protected]

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete a user; the notifications first, in batches."""
        prune.forget([obj.pk])
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Delete several users; their notifications first, in batches."""
        prune.forget(queryset.values_list("pk", flat=True))
        super().delete_queryset(request, queryset)

    def _note_permission(self, model: type[Model], row: Model | None, request: HttpRequest, missing: set[str]) -> None:
        site = self.admin_site
        if site.is_registered(model) and not site.get_model_admin(model).has_delete_permission(request, row):
            missing.add(str(model._meta.verbose_name))


class _Collector(NestedObjects):
    """Leaves out the rows of this app, which are counted."""

    def related_objects(self, related_model: type[Model], related_fields: Iterable[Any], objs: Any) -> QuerySet[Any]:
        found: QuerySet[Any] = super().related_objects(related_model, related_fields, objs)
        return found.none() if related_model._meta.app_label == _APP else found


def _count(users: list[Any]) -> dict[type[Model], int]:
    """How many rows of this app are deleted with these users, by model; models without any are left out."""
    found: dict[type[Model], int] = {}
    # Hidden relations are those without a name on the user's side.
    for relation in users[0]._meta.get_fields(include_hidden=True):
        if not isinstance(relation, ManyToOneRel) or relation.on_delete is not CASCADE:
            continue
        model = relation.related_model
        if model._meta.app_label != _APP:
            continue
        if count := model._base_manager.filter(**{f"{relation.field.name}__in": users}).count():
            found[model] = count
    # Every delivery has a notification, even if it goes out in a digest. So this finds all of them.
    if deliveries := Delivery._base_manager.filter(notification__recipient__in=users).count():
        found[Delivery] = deliveries
    return found
