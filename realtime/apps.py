"""
The app's configuration for INSTALLED_APPS.

Owns the error if Python finds another package or module instead of Signalbox's `notifications`. Does not own the
warning about an app of that name (checks): a project may have one on purpose.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules

_NOTIFICATIONS = "notifications"
_OURS = Path(__file__).resolve().parent.parent / _NOTIFICATIONS
# The modules of ours that projects import or name in their settings. Not those that Django looks for in every app.
_IMPORTED = ("apps", "exceptions", "health", "kinds", "preferences", "services", "signals", "transports", "urls")


class RealtimeConfig(AppConfig):
    name = "realtime"
    default_auto_field = "django.db.models.BigAutoField"
    verbose_name = "Realtime transport"

    def __init__(self, app_name: str, app_module: Any) -> None:
        super().__init__(app_name, app_module)
        other = _find_other()
        if other is not None:
            _refuse(other)

    def ready(self) -> None:
        # Registers the system checks.
        from realtime import checks  # noqa: F401
        from realtime.websocket.django_signals import connect_receivers

        connect_receivers()
        _install_statistics()
        # As the admin finds admin.py: each app declares its topics in topics.py, and its sinks in sinks.py.
        autodiscover_modules("topics", "sinks")


def _install_statistics() -> None:
    """This process pushes its counters from the first one on, unless REALTIME["STATISTICS"] is off."""
    from realtime import conf
    from realtime.statistics import pusher

    def is_enabled() -> bool:
        # Counting never raises. Whatever is wrong with the settings is said where they are used.
        try:
            return conf.get_settings().statistics
        except ImproperlyConfigured:
            return False

    pusher.install(lambda: (conf.sync_redis(), conf.keys()), is_enabled=is_enabled, role=_role())


def _role() -> str:
    """The name of the management command that runs, or "web"."""
    program, command = Path(sys.argv[0]).name, next((each for each in sys.argv[1:] if not each.startswith("-")), "")
    is_command = program in ("manage.py", "django-admin", "__main__.py") and command not in ("", "runserver")
    return command if is_command else "web"


def _find_other() -> Path | None:
    """The package or module that Python imports as `notifications`, if it is not ours. Imports nothing."""
    spec = PathFinder.find_spec(_NOTIFICATIONS)
    if spec is None or spec.origin is None:
        # There is none, or a folder without __init__.py, which hides nothing.
        return None
    found = Path(spec.origin).resolve()
    return None if found.is_relative_to(_OURS) else found.parent if found.stem == "__init__" else found


def _refuse(other: Path) -> None:
    """Raise if INSTALLED_APPS can only mean ours; otherwise, importing one of our modules says which path hides it."""
    problem = (
        f"Python finds another {_NOTIFICATIONS} before Signalbox's: {other}. Rename that one, or remove it; see "
        "docs/how-to/use-beside-another-notifications-app.md"
    )
    named = {f"{_NOTIFICATIONS}.apps.SignalboxConfig"}
    if other.suffix:
        # A module without submodules is nobody's app.
        named.add(_NOTIFICATIONS)
    if named.intersection(settings.INSTALLED_APPS):
        raise ImproperlyConfigured(problem)
    if not any(isinstance(finder, _HiddenModules) for finder in sys.meta_path):
        sys.meta_path.append(_HiddenModules(problem))


class _HiddenModule(ImproperlyConfigured, ModuleNotFoundError):
    """Django and Python treat it as the error that it replaces; commands report it in one line."""


class _HiddenModules:
    """The last finder of imports: the others did not find this module, as another package hides it."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in {f"{_NOTIFICATIONS}.{each}" for each in _IMPORTED}:
            raise _HiddenModule(f"No module named {name!r}: {self._problem}", name=name)
        return None
