"""The Tasks framework is Django's own where there is one, else the backport."""

import subprocess
import sys

import django
import pytest

from realtime.tasks import django_api


def test_every_public_name_is_there() -> None:
    """Whichever of the two is used."""
    assert all(hasattr(django_api, name) for name in django_api.__all__)


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has the Tasks framework since 6.0")
def test_djangos_own_framework_comes_first() -> None:
    """A process uses one framework only, so both sides of `TASKS` are the same one."""
    assert django_api.DJANGO_TASKS == "django.tasks"
    assert django_api.BaseTaskBackend.__module__ == "django.tasks.backends.base"


def test_without_a_framework_the_error_says_what_to_install() -> None:
    """One sentence, with the command for this environment; it is an ImportError and an ImproperlyConfigured."""
    program = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("django.tasks", "django_tasks") else find(name)
from django.core.exceptions import ImproperlyConfigured
try:
    import realtime.tasks.django_api
except ImportError as error:
    assert isinstance(error, ImproperlyConfigured)
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == (
        "background tasks need Django 6.0 or newer, or its backport: "
        f'run {sys.executable} -m pip install "django-tasks>=0.12"\n'
    )
