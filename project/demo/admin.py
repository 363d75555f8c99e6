"""The demo shop in the admin: where an order's status is changed."""

from typing import ClassVar

from django.contrib import admin
from unfold.admin import ModelAdmin

from project.demo.models import Order, Product


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
    # An order's page is its customer's own.
    view_on_site = False
