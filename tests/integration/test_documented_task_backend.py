"""An author runs the conformance suite on a backend, with the code of docs/how-to/test-a-task-backend.md."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from realtime.tasks.conformance.base import CAPABILITIES
from tests.support.howto import DOCS, blocks_of, commands_of

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parents[2]
PAGE = "how-to/test-a-task-backend.md"
# The package of the author, which the page does not show.
PACKAGE = {
    "mybackend/__init__.py": """
from tests.support.memory_tasks import MemoryBackend


class MyBackend(MemoryBackend):
    def __init__(self, alias, params):
        super().__init__(alias, {**params, "OPTIONS": {"store": "one for all tests"}})
        self.options = {}
""",
    "mybackend/worker.py": """
from tests.support.memory_tasks import Worker as Thread


class Worker:
    def __init__(self, backend):
        self._thread = Thread(backend)

    def run(self):
        self._thread.run()

    def stop(self):
        self._thread.is_stopping = True
""",
    "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\nasyncio_default_fixture_loop_scope = function\n",
    "settings.py": """
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "database", "TEST": {"NAME": "test-database"}}}
""",
}


def test_the_suite_of_the_page_passes(tmp_path: Path) -> None:
    """Of a package with a backend of its own; only what is beyond Django is skipped."""
    for name, text in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (block,) = [block for block in blocks_of(PAGE) if block.how == "the whole file"]
    block.put_into(tmp_path)
    (line,) = commands_of(PAGE)["run the suite"]
    inherited = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(
        [sys.executable, *line.split()[1:], "-rs"],
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = re.findall(r"^SKIPPED .*?: (TestMyBackend.+)$", done.stdout, re.MULTILINE)
    named = {match[1] for reason in reasons if (match := re.search(r"does not have '(\w+)'", reason))}
    assert named == CAPABILITIES.keys()
    assert len(reasons) == len(named)


def test_the_page_has_every_capability() -> None:
    """And no other; each piece of Python is Python."""
    text = (DOCS / PAGE).read_text()
    table = text.partition("| capability |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == CAPABILITIES.keys()
    for block in blocks_of(PAGE):
        ast.parse(block.text)
