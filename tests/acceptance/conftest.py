"""What all acceptance tests of a run share: one running site for each web server, and the wheel of the package."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.deployed_site import SERVERS, DeployedSite
from tests.acceptance.new_project import Project, copy_of, extras_of_the_page, is_extra, new_project
from tests.support.wheel import build_wheel, install, new_venv

# Plain uvicorn logs this if a client sends invalid UTF-8.
UVICORNS_OWN = "Invalid UTF-8 sequence received from client.\nTraceback (most recent call last):"


# Every server with the first database, and every database with the first server: the two are independent.
@pytest.fixture(scope="session", params=list(SERVERS)[:1] if "DATABASE_URL" in os.environ else SERVERS)
def running_site(request: pytest.FixtureRequest) -> Iterator[DeployedSite]:
    """Started once, since that takes seconds; tests make users of their own or count from where they find things."""
    with DeployedSite(request.param) as site:
        yield site


@pytest.fixture
def site(running_site: DeployedSite) -> Iterator[DeployedSite]:
    """The running site; none of its processes may write a traceback during the test."""
    before = {name: len(text) for name, text in running_site.logs().items()}
    yield running_site
    for name, text in running_site.logs().items():
        written = text[before.get(name, 0) :].replace(UVICORNS_OWN, "")
        assert "Traceback" not in written, f"{name}:\n{written}"


@pytest.fixture(scope="session")
def sessions(running_site: DeployedSite) -> dict[int, str]:
    """Three users of this site who are logged in: user id → session cookie."""
    return running_site.sessions(3)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built once."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new virtual environment with the wheel and the extras of docs/how-to/add-to-your-project.md."""
    python = new_venv(tmp_path_factory.mktemp("installed") / "venv")
    install(python, wheel, extras=extras_of_the_page())
    return python


@pytest.fixture(scope="session")
def _first_project(tmp_path_factory: pytest.TempPathFactory, installed_python: Path) -> Project:
    """Made once, since its commands take seconds; nothing may run in it."""
    return new_project(tmp_path_factory.mktemp("first"), installed_python, leave_out=is_extra)


@pytest.fixture
def tried_out(_first_project: Project, tmp_path: Path) -> Project:
    """A project that follows docs/how-to/add-to-your-project.md up to "Try it out", for pages that add to it."""
    return copy_of(_first_project, tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """If a test fails, its report has the last output of each process."""
    report = yield
    site = getattr(item, "funcargs", {}).get("running_site")
    if report.failed and site is not None:
        for name, text in site.logs().items():
            report.sections.append((f"the end of the log of {name}", text[-4000:]))
    return report
