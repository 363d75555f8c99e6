"""Examples of the documentation, run as they stand there."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.howto import blocks_of, commands_of
from tests.redis_server import RedisServer

pytestmark = pytest.mark.database_independent

PAGE = "how-to/send-from-another-program.md"


def test_a_foreign_program_in_python_reaches_a_redis_at_any_url(tmp_path: Path, redis_server: RedisServer) -> None:
    """At a unix:// one too, which is what `make run` has; and it says how many received it."""
    assert redis_server.url.startswith("unix://")
    for block in blocks_of(PAGE):
        block.put_into(tmp_path)
    (line,) = commands_of(PAGE)["tell"]
    words = shlex.split(line.replace('"$(python manage.py redis_url)"', redis_server.url))
    assert words[0] == "python"
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
