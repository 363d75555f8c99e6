"""The package as a stranger gets it: one wheel, in a virtual environment that has nothing else."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.wheel import ROOT, environment, install, new_venv

# A package index may be far away.
pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent, pytest.mark.timeout(900)]

APPS = ("realtime", "notifications")


def files_of_the_apps() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for app in APPS
        for path in (ROOT / app).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def contents(wheel: Path) -> set[str]:
    """Without the metadata."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_has_all_files_of_the_two_apps_and_no_others(wheel: Path) -> None:
    """Migrations, templates, static files, catalogs and Lua scripts are in it; project/ and tests/ are not."""
    assert contents(wheel) == files_of_the_apps()
    kinds = ("/migrations/0001_initial.py", "bell.html", "client.js", "django.mo", "django.po", ".lua", "py.typed")
    for kind in kinds:
        assert any(name.endswith(kind) for name in contents(wheel)), kind
    for app in APPS:
        assert f"{app}/py.typed" in contents(wheel)


def test_a_source_distribution_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """`python -m build`, as whoever publishes it does."""
    python = new_venv(tmp_path / "venv")
    install(python, None, "build")
    subprocess.run(
        [python, "-m", "build", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env=environment(),
    )
    (built,) = (tmp_path / "dist").glob("*.whl")
    assert built.name == wheel.name
    assert contents(built) == contents(wheel)
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
