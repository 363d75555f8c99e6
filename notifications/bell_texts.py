"""
What the bell's scripts say, in the language of the request.

Owns these texts. language.js has the same in English, for a project whose own bell.html brings none. What the templates
say stands in the templates.
"""

from django.utils.formats import number_format
from django.utils.translation import gettext, ngettext

__all__ = ["bell_texts", "unread_label"]

# For each plural form of any language there is one of these numbers: the script takes the text of the number that has
# the plural category of its own, by Intl.PluralRules.
PLURAL_SAMPLES = (0, 1, 2, 3, 6, 7, 11, 100)


def bell_texts() -> dict[str, str | dict[int, str]]:
    """The texts by the names that language.js has for them; `unread` by number, with `%(count)s` left in it."""
    return {
        # The state of the connection.
        "connecting": gettext("Connecting…"),
        "open": gettext("Live"),
        "waiting": gettext("Connection lost. Trying again…"),
        "closed": gettext("Not connected. Reload the page."),
        # What stands in the reader's way.
        "away": gettext("Not saved yet: the server cannot be reached. Trying again…"),
        "signed-out": gettext("You are signed out. Sign in again, here or in another tab."),
        "other-user": gettext("Somebody else has signed in. Reload the page."),
        "refused": gettext("The server did not do this. Reload the page and try again."),
        "saved": gettext("Saved."),
        # The button of a toast.
        "close": gettext("Close"),
        "unread": {count: _unread(count) for count in PLURAL_SAMPLES},
    }


def unread_label(count: int) -> str:
    """What the bell's button says to a screen reader."""
    return _unread(count) % {"count": number_format(count, use_l10n=True, force_grouping=True)}


def _unread(count: int) -> str:
    return ngettext("Notifications, %(count)s unread", "Notifications, %(count)s unread", count)
