"""The demo shop in the admin, where staff change the status of orders. Owns no notifications (receivers)."""

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest

from notifications.admin.looks import ModelAdmin
from project.demo.models import Order, Product

if TYPE_CHECKING:
    _ModelForm = ModelForm[Order]
else:
    _ModelForm = ModelForm


class OrderRow(_ModelForm):
    """One order in the list. The label of each field includes the order, for screen readers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.widget.attrs["aria-label"] = f"{field.label}: {self.instance}"


@admin.register(Product)
class ProductAdmin(ModelAdmin):
    """Goods."""

    list_display = ("name", "price")
    search_fields = ("name",)


@admin.register(Order)
class OrderAdmin(ModelAdmin):
    """Orders; a changed status notifies the customer (receivers.py)."""

    list_display = ("__str__", "customer", "product", "status", "created_at")
    list_editable: ClassVar = ("status",)
    list_filter = ("status",)
    list_select_related = ("customer", "product")
    search_fields = ("=id", "customer__username", "product__name")
    autocomplete_fields = ("customer", "product")
    readonly_fields = ("created_at", "updated_at")
    # Only the customer can open the page of an order.
    view_on_site = False

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> type[_ModelForm]:
        """The form of each row."""
        form: type[_ModelForm] = super().get_changelist_form(request, **{"form": OrderRow, **kwargs})
        return form
