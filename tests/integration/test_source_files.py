"""Which changes of files start a site again."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps

import notifications
from realtime.development import source_files
from realtime.development.source_files import SourceFiles, source_directories

pytestmark = pytest.mark.database_independent


@pytest.fixture(autouse=True)
def _always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_files, "INTERVAL_SECONDS", 0.0)


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


@pytest.mark.parametrize(
    "name", ["views.py", "shop/models.py", "templates/base.html", "shop/templates/mail.txt", "locale/de/django.mo"]
)
def test_a_source_file_that_is_made_written_or_removed_is_a_change(tmp_path: Path, name: str) -> None:
    """Each is seen once."""
    files = SourceFiles([tmp_path])
    assert files.find_changes() == []
    path = tmp_path / name
    for change in (lambda: write(path), lambda: write(path, "more"), path.unlink):
        change()
        assert files.find_changes() == [path]
        assert files.find_changes() == []
    write(path)
    files.forget_changes()
    assert files.find_changes() == []


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "db.sqlite3",
        "__pycache__/views.cpython-313.pyc",
        ".git/hook.py",
        "node_modules/some/index.html",
        "env/lib/python3.13/site.py",
        "collected/admin/index.html",
        "data/built/page.html",
        "var/some/keys.py",
    ],
)
def test_data_and_the_files_of_others_are_none(tmp_path: Path, settings: Any, name: str) -> None:
    """Hidden directories, virtual environments by any name, collected static files."""
    settings.STATIC_ROOT = str(tmp_path / "collected")
    settings.VAR_DIR = tmp_path / "data"
    write(tmp_path / "var/.gitignore", "*\n")
    write(tmp_path / "env/pyvenv.cfg")
    files = SourceFiles([tmp_path])
    write(tmp_path / name)
    assert files.find_changes() == []


def test_a_link_to_nowhere_hides_no_other_file(tmp_path: Path) -> None:
    """Emacs makes such a link beside each file that is being edited."""
    write(tmp_path / "views.py")
    files = SourceFiles([tmp_path])
    for name in (".#views.py", "a.py", "z.py"):
        (tmp_path / name).symlink_to("somebody@somewhere.123")
    assert files.find_changes() == []
    write(tmp_path / "views.py", "more")
    assert files.find_changes() == [tmp_path / "views.py"]


def test_a_project_behind_a_link_is_looked_through_once(
    settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And so is an app that is a link to a directory beside the project."""
    real, beside = tmp_path / "real", tmp_path / "beside"
    write(real / "shop/views.py")
    write(beside / "views.py")
    (tmp_path / "link").symlink_to(real)
    (real / "linked").symlink_to(beside)
    settings.BASE_DIR = tmp_path / "link"
    settings.VAR_DIR = tmp_path / "link/data"
    linked = [SimpleNamespace(path=str(tmp_path / "link" / name)) for name in ("shop", "linked")]
    monkeypatch.setattr(apps, "get_app_configs", lambda: linked)
    found = source_directories()
    assert found == [real, beside]
    files = SourceFiles(found)
    write(real / "data/some.py")
    assert files.find_changes() == []
    write(beside / "views.py", "more")
    assert files.find_changes() == [beside / "views.py"]


def test_apps_beside_the_project_are_watched_and_installed_packages_are_not(settings: Any, tmp_path: Path) -> None:
    """`notifications` is outside of this BASE_DIR and in no site-packages; `channels` is installed."""
    settings.BASE_DIR = tmp_path
    found = source_directories()
    assert found[0] == tmp_path
    assert Path(notifications.__file__).parent in found
    assert not [path for path in found if "site-packages" in path.parts]
