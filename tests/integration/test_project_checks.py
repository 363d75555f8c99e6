"""What `manage.py check` says of a project that the apps were added to: its database, its pages, its runserver."""

import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import get_commands
from django.db import connection
from django.test import Client

from tests.support.domain import make_users
from tests.support.howto import blocks_of

pytestmark = pytest.mark.database_independent

# Of a project that has no addresses.
urlpatterns: list[Any] = []

BASE = "<title>{% block page_title %}{% endblock %}</title>{% block main %}{% endblock %}"


def found() -> list[str]:
    """The ids of the messages of `manage.py check --tag realtime --tag notifications`."""
    return [message.id for message in run_checks(tags=["realtime", "notifications"])]


def said(identifier: str) -> str:
    (message,) = [each for each in run_checks(tags=["realtime", "notifications"]) if each.id == identifier]
    return f"{message.msg} {message.hint}"


# The database ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, "", "DEFERRED", "deferred"])
def test_sqlite_as_in_a_new_project_is_a_warning(monkeypatch: pytest.MonkeyPatch, mode: str | None) -> None:
    """Its transactions begin without the lock; the hint is what the documentation has."""
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"transaction_mode": mode} if mode is not None else {})
    monkeypatch.setitem(connection.settings_dict, "NAME", "db.sqlite3")
    assert found() == ["notifications.W001"]
    assert '"transaction_mode": "IMMEDIATE"' in said("notifications.W001")


@pytest.mark.parametrize("mode", ["IMMEDIATE", "immediate", "EXCLUSIVE"])
def test_sqlite_that_locks_at_once_passes(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """However it is spelt, as Django takes it."""
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"transaction_mode": mode})
    monkeypatch.setitem(connection.settings_dict, "NAME", "db.sqlite3")
    assert found() == []


def test_sqlite_in_memory_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process can write there."""
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {})
    monkeypatch.setitem(connection.settings_dict, "NAME", ":memory:")
    assert found() == []


# The page around the inbox --------------------------------------------------------------------------------------------


@pytest.fixture
def templates(tmp_path: Path, settings: Any) -> Path:
    """A directory of the project's own templates, which are found before the demo's."""
    directory = tmp_path / "templates"
    (directory / "notifications").mkdir(parents=True)
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [directory]}]
    return directory


def inbox() -> str:
    """The inbox's page, as a user gets it."""
    client = Client()
    client.force_login(make_users(1)[0])
    return client.get("/notifications/").content.decode()


@pytest.mark.django_db
def test_a_base_without_room_for_the_inbox_is_a_warning(templates: Path) -> None:
    """The page would be blank, and nothing else says so."""
    (templates / "base.html").write_text(BASE)
    assert found() == ["notifications.W002"]
    assert str(templates / "base.html") in said("notifications.W002")
    assert "signalbox-inbox" not in inbox()


@pytest.mark.django_db
def test_a_template_between_makes_room(templates: Path) -> None:
    """The project's notifications/base.html says which block of its own is which, as the documentation shows."""
    (templates / "base.html").write_text(BASE)
    (between,) = [block for block in blocks_of("how-to/add-to-your-project.md") if block.how.startswith("only if")]
    (templates.parent / between.path).write_text(between.text)
    assert found() == []
    page = inbox()
    assert "<title>Notifications</title>" in page
    assert 'class="signalbox-inbox"' in page


@pytest.mark.parametrize(
    ("base", "site"),
    [
        ('{% extends "site.html" %}', "{% block content %}{% endblock %}"),
        ("{% extends layout %}", ""),
        ('{% extends "gone.html" %}', ""),
        ('{% extends "base.html" %}', ""),
        ("{% no_such_tag %}", ""),
        ('{% extends "site.html" %}', "{% endblock %}"),
    ],
    ids=["inherited", "a variable", "not there", "another of its name", "broken", "its parent is broken"],
)
def test_a_base_of_which_it_cannot_be_told_or_that_inherits_the_block_passes(
    templates: Path, base: str, site: str
) -> None:
    """No false alarm."""
    (templates / "base.html").write_text(base)
    (templates / "site.html").write_text(site)
    assert found() == []


def test_an_inherited_base_without_room_is_a_warning(templates: Path) -> None:
    """However far up its blocks are."""
    (templates / "base.html").write_text('{% extends "site.html" %}{% block page_title %}{% endblock %}')
    (templates / "site.html").write_text(BASE)
    assert found() == ["notifications.W002"]


def test_a_project_without_the_inboxs_addresses_needs_no_room_for_it(templates: Path, settings: Any) -> None:
    """It shows notifications in its own way, or in none."""
    (templates / "base.html").write_text(BASE)
    settings.ROOT_URLCONF = __name__
    assert found() == []


# runserver ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "app", "expected"),
    [
        ("runserver", "django.core", ["realtime.W006"]),
        ("runserver", "django.contrib.staticfiles", ["realtime.W006"]),
        ("runserver", "daphne", []),
        ("runserver", "somebody.elses", []),
        ("check", "django.contrib.staticfiles", []),
    ],
)
def test_a_runserver_without_websockets_says_so(
    monkeypatch: pytest.MonkeyPatch, command: str, app: str, expected: list[str]
) -> None:
    """When it is started, and not to who starts something else."""
    monkeypatch.setattr(sys, "argv", ["manage.py", command])
    monkeypatch.setitem(get_commands(), "runserver", app)
    assert found() == expected
    if expected:
        assert '"daphne"' in said("realtime.W006")


def test_a_project_without_addresses_at_all_passes(settings: Any) -> None:
    """It has no ROOT_URLCONF, as a project that only runs bots may have none."""
    del settings.ROOT_URLCONF
    assert found() == []
