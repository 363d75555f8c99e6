"""
The texts of the bell's scripts, in the language of the request.

Owns these texts. language.js has the same texts in English, for a project whose own bell.html does not pass any. Does
not own the texts of the templates.
"""

from django.utils.formats import number_format
from django.utils.translation import gettext, ngettext

__all__ = ["bell_texts", "unread_label"]

# Sample numbers: together they cover the plural forms of all languages. For a count, the script takes the text of the
# sample with the same plural category (Intl.PluralRules).
PLURAL_SAMPLES = (0, 1, 2, 3, 6, 7, 11, 100)


def bell_texts() -> dict[str, str | dict[int, str]]:
    """The texts by their names in language.js. `unread` has a text for each sample number, which contains %(count)s."""
    return {
        # The state of the connection.
        "connecting": gettext("Connecting…"),
        "open": gettext("Live"),
        "waiting": gettext("Connection lost. Trying again…"),
        "closed": gettext("Not connected. Reload the page."),
        # Problems that the user should know of, and their end.
        "away": gettext("Not saved yet: the server cannot be reached. Trying again…"),
        "signed-out": gettext("You are signed out. Sign in again, here or in another tab."),
        # The link in the notice that the user is signed out.
        "sign-in": gettext("Sign in"),
        "deactivated": gettext("Your account is deactivated. Contact the site's administrators."),
        "other-user": gettext("Somebody else has signed in. Reload the page."),
        "refused": gettext("The server refused this. Reload the page and try again."),
        "saved": gettext("Saved."),
        # The button of a toast.
        "close": gettext("Close"),
        "unread": {count: _unread(count) for count in PLURAL_SAMPLES},
    }


def unread_label(count: int) -> str:
    """The label of the bell's button for screen readers."""
    return _unread(count) % {"count": number_format(count, use_l10n=True, force_grouping=True)}


def _unread(count: int) -> str:
    return ngettext("Notifications, %(count)s unread", "Notifications, %(count)s unread", count)
