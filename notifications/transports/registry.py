"""
The transports of the project, from NOTIFICATIONS["TRANSPORTS"].

Owns creating them and checking their entries in the settings. Does not own the transports themselves.
"""

import functools

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from notifications import conf
from notifications.models import TRANSPORT_LIMIT
from notifications.transports.base import Transport
from notifications.transports.console import PrintingTransport

__all__ = ["delivering_transports", "get_transports", "load_transport", "load_transports"]


@functools.cache
def get_transports() -> dict[str, Transport]:
    """The transports of this process by name, in the order of the settings. Raises ImproperlyConfigured."""
    return load_transports()


def delivering_transports() -> dict[str, Transport]:
    """
    The transports that the bot uses: those of `get_transports`, or replacements that print if DELIVERY is "console".

    Raises ImproperlyConfigured.
    """
    if conf.get_settings().delivery == "console":
        return {name: PrintingTransport(name=name) for name in conf.get_settings().transports}
    return get_transports()


def load_transports() -> dict[str, Transport]:
    """Create all transports again. Raises ImproperlyConfigured."""
    return {name: load_transport(name) for name in conf.get_settings().transports}


def load_transport(name: str) -> Transport:
    """
    Create one transport.

    Raises:
        ImproperlyConfigured: Its entry in the settings is wrong; the text says how.
    """
    entry = conf.get_settings().transports[name]
    place = f'NOTIFICATIONS["TRANSPORTS"]["{name}"]'
    if not 0 < len(name) <= TRANSPORT_LIMIT or not name.isidentifier():
        raise ImproperlyConfigured(f"{place}: the name must be letters, digits and _, at most {TRANSPORT_LIMIT}")
    try:
        backend = import_string(entry.backend)
    except ImportError as error:
        raise ImproperlyConfigured(f"{place}: BACKEND cannot be imported: {error}") from error
    if not (isinstance(backend, type) and issubclass(backend, Transport)):
        raise ImproperlyConfigured(
            f"{place}: BACKEND {entry.backend} is not a subclass of notifications.transports.Transport"
        )
    try:
        transport = backend(name=name, **entry.options)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{place}: OPTIONS are wrong: {error}") from error
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{place}: {error}") from error
    limit = conf.get_settings().delivery_claim_seconds / 2
    if not 0 < transport.timeout_seconds <= limit:
        raise ImproperlyConfigured(
            f"{place}: timeout_seconds is {transport.timeout_seconds}, but must be more than 0 and at most half of "
            f"DELIVERY_CLAIM_SECONDS, {limit}"
        )
    return transport


@receiver(setting_changed)
def _forget_transports(*, setting: str, **kwargs: object) -> None:
    if setting == "NOTIFICATIONS":
        get_transports.cache_clear()
