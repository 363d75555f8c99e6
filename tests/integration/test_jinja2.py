"""A project with Jinja2 templates: the inbox has a page of its own, and the bell is a function, as documented."""

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.checks import run_checks
from django.template import engines
from django.test import Client, RequestFactory

from notifications.services import notify
from tests.support.domain import make_users

pytestmark = pytest.mark.django_db

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-with-jinja2.md"
BASE = "<!doctype html>{% block content %}{% endblock %}{{ nothing.of_django | upper }}"


@pytest.fixture
def alice() -> User:
    return make_users(1, prefix="alice")[0]


@pytest.fixture
def _project(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of the page, as in a project named mysite, whose only base.html is a Jinja2 template."""
    environment, engine = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name in ("mysite", "mysite.jinja2"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    (tmp_path / "jinja2.py").write_text(environment)
    (tmp_path / "settings.py").write_text(engine)
    vars(sys.modules["mysite.jinja2"]).update(runpy.run_path(str(tmp_path / "jinja2.py")))
    (django,) = settings.TEMPLATES
    own = settings.BASE_DIR / "notifications" / "templates"
    before = [{**django, "APP_DIRS": False, "DIRS": [own]}]
    jinja2, *rest = runpy.run_path(str(tmp_path / "settings.py"), {"TEMPLATES": before})["TEMPLATES"]
    (tmp_path / "base.html").write_text(BASE)
    settings.TEMPLATES = [{**jinja2, "DIRS": [tmp_path]}, *rest]


@pytest.mark.usefixtures("_project")
def test_the_inbox_has_a_page_of_its_own(alice: User) -> None:
    """A template of another language cannot be extended."""
    notify(alice, "hello")
    client = Client()
    client.force_login(alice)
    answer = client.get("/notifications/")
    assert answer.status_code == 200
    assert b'class="signalbox-page"' in answer.content
    assert b"hello" in answer.content
    assert [found for found in run_checks() if found.id == "notifications.W002"] == []


@pytest.mark.usefixtures("_project")
def test_the_bell_is_a_function(alice: User) -> None:
    """Markup, not text; nothing for a visitor."""
    notify(alice, "<b>hello</b>")
    (line,) = re.findall(r"```html\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    request = RequestFactory().get("/")
    request.user = alice
    template = engines["jinja2"].from_string(line)
    page = template.render({}, request)
    assert "<header>" in page
    assert "<signalbox-bell" in page
    assert "&lt;b&gt;hello&lt;/b&gt;" in page
    request.user = AnonymousUser()
    assert "<signalbox-bell" not in template.render({}, request)
