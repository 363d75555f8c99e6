"""
Links that work outside of the site: in mails, chats and what other programs get.

Owns which address the site has. Does not own what a URL may be (envelope). Sync; the Sites framework may ask the
database.
"""

import msgspec
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, ObjectDoesNotExist

from notifications import conf
from notifications.envelope import Envelope

__all__ = ["base_url", "is_absolute", "with_absolute_url"]

# What migrating the Sites framework writes for a site that nobody has named yet.
PLACEHOLDER = "example.com"


def base_url() -> str:
    """
    Where the site is, without a slash at the end: NOTIFICATIONS["BASE_URL"], else the current site of the Sites
    framework, by https; "" if neither is there.
    """
    if given := conf.get_settings().base_url:
        return given.rstrip("/")
    if not apps.is_installed("django.contrib.sites"):
        return ""
    from django.contrib.sites.models import Site

    try:
        domain = Site.objects.get_current().domain
    except (ImproperlyConfigured, ObjectDoesNotExist):
        # There is no SITE_ID, or no such site.
        return ""
    return "" if domain == PLACEHOLDER else f"https://{domain}"


def is_absolute(url: str) -> bool:
    """Whether a checked URL leads to the same place from everywhere."""
    return url.startswith(("http://", "https://"))


def with_absolute_url(envelope: Envelope) -> Envelope:
    """With the site's address before a path; the same if there is none."""
    if not envelope.url or is_absolute(envelope.url):
        return envelope
    base = base_url()
    return msgspec.structs.replace(envelope, url=base + envelope.url) if base else envelope
