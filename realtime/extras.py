"""
The extras of the package: what to install where a part of it needs more than the core.

Owns the one line that says so. Does not own which libraries an extra brings (pyproject.toml) nor who uses them.
"""

import contextlib
from collections.abc import Iterator

from django.core.exceptions import ImproperlyConfigured

__all__ = ["ExtraMissing", "extra"]


class ExtraMissing(ImproperlyConfigured, ImportError):
    """
    A library that an extra brings is not installed.

    Attributes:
        extra: The name of the extra.
    """

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f'{module} is not installed: run pip install "signalbox[{extra}]"')
        self.extra = extra


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """
    Around the imports that need an extra: `with extra("webhook"): import httpx`.

    Raises:
        ExtraMissing: One of the modules is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # The place of the import says nothing more.
        raise ExtraMissing(error.name or "a module", name) from None
