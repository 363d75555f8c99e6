"""Users and groups in the admin, with unfold's forms. Imported by `project.admin` once the models are there."""

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from notifications.admin import CountedDeletion
from notifications.admin.history import BoundedPaginator
from notifications.admin.looks import ModelAdmin
from realtime.admin import disconnect_users

__all__ = ["GroupAdmin", "UserAdmin"]

User = get_user_model()
admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(CountedDeletion, DjangoUserAdmin, ModelAdmin):
    """Django's UserAdmin, made fast for many users and many notifications; the search for recipients uses it."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    paginator = BoundedPaginator
    show_full_result_count = False
    actions = (disconnect_users,)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    """Django's."""
