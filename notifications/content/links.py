"""
Absolute links, for emails, chats and other programs.

Owns the address of the site. Does not own which URLs are allowed (envelope). All functions are sync, because the Sites
framework may query the database.
"""

import msgspec
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, ObjectDoesNotExist

from notifications import conf
from notifications.content.envelope import Envelope

__all__ = ["base_url", "is_absolute", "with_absolute_url"]

# The domain that the migration of the Sites framework writes: the real one is not set yet.
PLACEHOLDER = "example.com"


def base_url() -> str:
    """
    The address of the site, without a slash at the end.

    It is NOTIFICATIONS["BASE_URL"], or https and the domain of the Sites framework's current site, or "".
    """
    if given := conf.get_settings().base_url:
        return given.rstrip("/")
    if not apps.is_installed("django.contrib.sites"):
        return ""
    from django.contrib.sites.models import Site

    try:
        domain = Site.objects.get_current().domain
    except (ImproperlyConfigured, ObjectDoesNotExist):
        # There is no SITE_ID, or no row for it.
        return ""
    return "" if domain == PLACEHOLDER else f"https://{domain}"


def is_absolute(url: str) -> bool:
    """Whether a URL that was checked already has a scheme and a host."""
    return url.startswith(("http://", "https://"))


def with_absolute_url(envelope: Envelope) -> Envelope:
    """The envelope with the site's address before the path in its URL; unchanged if there is no address or no path."""
    if not envelope.url or is_absolute(envelope.url):
        return envelope
    base = base_url()
    return msgspec.structs.replace(envelope, url=base + envelope.url) if base else envelope
