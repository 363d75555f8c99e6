"""
The form that sends a notification.

Owns assigning errors to fields, and hiding users from staff who may not see them. Does not own the limits of the fields
(content.envelope).
"""

import hashlib
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib.admin.sites import AdminSite
from django.contrib.admin.widgets import AutocompleteSelectMultiple
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import router

from notifications import services
from notifications.admin.looks import Textarea, TextInput
from notifications.content.envelope import KIND_LIMIT, MESSAGE_LIMIT, TITLE_LIMIT, URL_LIMIT, check_content
from notifications.exceptions import InvalidNotification
from notifications.models import Event, Notification

__all__ = ["SendNotificationForm"]


if TYPE_CHECKING:
    _ModelMultipleChoiceField = forms.ModelMultipleChoiceField[Any]
else:
    _ModelMultipleChoiceField = forms.ModelMultipleChoiceField


class _RecipientsWidget(AutocompleteSelectMultiple):
    """Shows the chosen users again after an error. Django's widget fails on a value that is not a key."""

    @property
    def media(self) -> forms.Media:
        """Django's scripts and styles, and the script that names Select2's parts for screen readers."""
        return super().media + forms.Media(js=["notifications/select_names.js"])

    def optgroups(self, name: str, value: Any, attr: Any = None) -> Any:
        """The options for those chosen users that exist."""
        keys = [key for key in value if _is_key(key)]
        found = {str(key) for key in self.choices.queryset.filter(pk__in=keys).values_list("pk", flat=True)}
        return super().optgroups(name, [key for key in keys if str(key) in found], attr)


class _RecipientsField(_ModelMultipleChoiceField):
    """Users by their keys. An invalid key has the same kind of error as a user who cannot be chosen."""

    default_error_messages: ClassVar = {
        "invalid_choice": "“%(value)s” is not a user who can be chosen: choose recipients from the list.",
        "invalid_pk_value": "“%(pk)s” is not a user who can be chosen: choose recipients from the list.",
    }

    def clean(self, value: Any) -> Any:
        """The users; raises ValidationError for a key that no user can have."""
        for key in value or ():
            if not _is_key(key):
                raise forms.ValidationError(self.error_messages["invalid_pk_value"], params={"pk": str(key)[:40]})
        return super().clean(value)


class SendNotificationForm(forms.Form):
    """
    Recipients, who are found by typing, and the content of the notification.

    Args:
        admin_site: The site whose user admin, with its `search_fields`, is used to search recipients.
        may_view_users: Whether the user of the form may see users. If not, no recipient can be chosen or is named.
    """

    message = forms.CharField(max_length=MESSAGE_LIMIT, strip=False, widget=Textarea(attrs={"rows": 5, "dir": "auto"}))
    title = forms.CharField(max_length=TITLE_LIMIT, required=False, widget=TextInput(attrs={"dir": "auto"}))
    url = forms.CharField(
        label="URL",
        max_length=URL_LIMIT,
        required=False,
        widget=TextInput,
        help_text="Where a click leads: a path of this site (/orders/7) or an address (https://…).",
    )
    kind = forms.CharField(
        max_length=KIND_LIMIT,
        initial="info",
        widget=TextInput,
        help_text="The kind of event, for preferences and filters: info, order.shipped, …",
    )
    # Identifies this form, so that a second click on its button does not send again.
    token = forms.UUIDField(initial=uuid.uuid4, widget=forms.HiddenInput)

    def __init__(self, *args: Any, admin_site: AdminSite, may_view_users: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        users = get_user_model()._default_manager.using(router.db_for_write(get_user_model()))
        help_text = "Type a part of a name or an email address. For many recipients, use manage.py notify."
        if not may_view_users:
            help_text = "You need the permission to view users to choose recipients."
        # Not in the class, because the user model and the site are only known now.
        self.fields["recipients"] = _RecipientsField(
            queryset=users.all() if may_view_users else users.none(),
            widget=_RecipientsWidget(Notification._meta.get_field("recipient"), admin_site),
            help_text=help_text,
        )

    # Each field is checked separately, so that all errors are shown at once.

    def clean_message(self) -> str:
        """The checked message."""
        return self._checked("message")

    def clean_title(self) -> str:
        """The checked title."""
        return self._checked("title")

    def clean_url(self) -> str:
        """The checked URL."""
        return self._checked("url")

    def clean_kind(self) -> str:
        """The checked kind."""
        return self._checked("kind")

    def send(self, *, actor: Any) -> Event | None:
        """
        Send the notification of a valid form.

        Returns:
            The event; None if notify() refuses it. The form then has the reason among its errors.
        """
        content = {name: self.cleaned_data[name] for name in ("message", "title", "url", "kind")}
        user_ids = sorted(user.pk for user in self.cleaned_data["recipients"])
        # If the user goes back and changes the content, it is another event.
        digest = hashlib.sha256(repr((content, user_ids)).encode()).hexdigest()
        try:
            return services.notify(
                user_ids, **content, actor=actor, idempotency_key=f"form:{self.cleaned_data['token'].hex}:{digest[:16]}"
            )
        except InvalidNotification as error:
            # The content has been checked already, so the error concerns the recipients.
            self.add_error("recipients", str(error))
        return None

    def _checked(self, name: str) -> str:
        value: str = self.cleaned_data[name]
        try:
            check_content(**{"message": "-", name: value})
        except InvalidNotification as error:
            raise forms.ValidationError(str(error)) from error
        return value


def _is_key(text: Any) -> bool:
    """Whether the text can be a user's primary key."""
    key = get_user_model()._meta.pk
    try:
        key.run_validators(key.to_python(text))
    except (ValidationError, ValueError, OverflowError):
        return False
    return True
