"""What `make check` makes of pip-audit's answers: the real program, and a vulnerability service of our own."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support import audit

pytestmark = pytest.mark.database_independent

VULNERABILITY = {
    "id": "PYSEC-1",
    "summary": "it leaks",
    "published": "2020-01-01T00:00:00Z",
    "modified": "2020-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "leaky", "ecosystem": "PyPI", "purl": "pkg:pypi/leaky"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
            "versions": ["1.0"],
        }
    ],
}


@contextmanager
def service(answer: dict[str, Any]) -> Iterator[str]:
    """A vulnerability service that says the same of every package."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """To audit one package that is not installed."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("leaky==1.0\n")
    return ["--requirement", str(requirements), "--no-deps", "--disable-pip", "--vulnerability-service=osv"]


def test_a_vulnerability_fails_the_check(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The vulnerability is named, with the release that fixes it."""
    with service({"vulns": [VULNERABILITY]}) as url:
        assert audit.main([*arguments, f"--osv-url={url}"]) == 1
    assert capsys.readouterr().out == "leaky 1.0 is vulnerable: PYSEC-1 (mended in: 1.1)\n"


def test_nothing_known_passes_without_a_word(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As the other parts of the check do."""
    with service({}) as url:
        assert audit.main([*arguments, f"--osv-url={url}"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("how", ["refuses", "is silent"])
def test_a_service_that_does_not_answer_passes_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """The code is checked on trains too, and a check that hangs is switched off."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=8)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/query"
        if how == "refuses":
            listener.close()
        assert audit.main([*arguments, f"--osv-url={url}"], seconds=4.0) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("pip-audit could not look for vulnerabilities (")
