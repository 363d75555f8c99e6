"""
The extras of the package: what to install where a part of it needs more than the core.

Owns the one line that says so, with the command that installs into this environment. Does not own which libraries an
extra brings (pyproject.toml) nor who uses them.
"""

import contextlib
import importlib.metadata
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

__all__ = ["ExtraMissing", "extra"]

_DISTRIBUTION = "signalbox"


class ExtraMissing(ImproperlyConfigured, ImportError):
    """
    A library that an extra brings is not installed.

    Attributes:
        extra: The name of the extra.
    """

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed in this environment: run {_install_command(extra)}")
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


def _install_command(extra: str) -> str:
    """
    The command that installs an extra into the environment of this process.

    It names this Python, because the `pip` of a shell may belong to another environment. It names the package only
    where the package is installed: pip then keeps it, and adds what is missing. Elsewhere pip would fetch the package
    of this name from PyPI, which is another project, so the command has the path of the checkout.
    """
    try:
        known = importlib.metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        known = []
    if extra in known:
        options, source = "", _DISTRIBUTION
    else:
        options, source = "--editable ", str(Path(__file__).resolve().parent.parent)
    return f"{shlex.quote(sys.executable)} -m pip install {options}{_double_quoted(f'{source}[{extra}]')}"


def _double_quoted(word: str) -> str:
    """For a shell; a name in brackets is easier to read in double quotes, which are enough for most paths."""
    return shlex.quote(word) if any(character in word for character in '"$`\\!') else f'"{word}"'
