"""
The names that depend on the label of this app in the project: permissions, URLs, and relations on users.

Owns deriving these names from the label, and the error if the app is not installed. Does not own the label: the
AppConfig in INSTALLED_APPS sets it (apps). Migrations use this module too, so they work with every label.
"""

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

__all__ = ["LABEL", "admin_url_name", "on_user", "permission"]

_config = apps.get_containing_app_config(__name__)
if _config is None:
    raise ImproperlyConfigured(
        'The project imports notifications, which is not in INSTALLED_APPS: add "realtime" and "notifications" there.'
    )
# Also the namespace of the URLs, and the beginning of the names of tables.
LABEL: str = _config.label
_user_prefix: str = getattr(_config, "user_prefix", "")


def on_user(name: str) -> str:
    """The name of a relation to this app's rows on the model of users, e.g. `user.notifications`."""
    return f"{_user_prefix}{name}"


def permission(codename: str) -> str:
    """A permission of this app, as `has_perm` takes it."""
    return f"{LABEL}.{codename}"


def admin_url_name(name: str) -> str:
    """The name of a page of the admin, without the namespace of the site: `event_changelist`, `event_send`."""
    return f"{LABEL}_{name}"
