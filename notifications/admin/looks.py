"""
The look of the admin: django-unfold's if it is installed, otherwise Django's own.

Owns this decision: no other module imports unfold. The names here have the same interface in both cases.
"""

from typing import TYPE_CHECKING, Any

import django
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.widgets import AdminTextareaWidget as Textarea
from django.contrib.admin.widgets import AdminTextInputWidget as TextInput

__all__ = ["HAS_UNFOLD", "AdminForm", "ModelAdmin", "TextInput", "Textarea"]

HAS_UNFOLD = apps.is_installed("unfold")

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
elif HAS_UNFOLD:
    from unfold.admin import ModelAdmin as UnfoldModelAdmin
    from unfold.forms import AdminForm
    from unfold.widgets import UnfoldAdminTextareaWidget as Textarea
    from unfold.widgets import UnfoldAdminTextInputWidget as TextInput

    class ModelAdmin(UnfoldModelAdmin):
        if django.VERSION >= (6, 1):

            def get_action_choices(self, request, default_choices=None, action_location=None):
                # unfold 0.110 overrides this with the signature from before Django 6.1, and Django 6.1 warns of that
                # on every page with actions.
                blank = [("", "Select action")]
                location = action_location or admin.ActionLocation.CHANGE_LIST
                return admin.ModelAdmin.get_action_choices(self, request, blank, location)

else:
    ModelAdmin = admin.ModelAdmin
