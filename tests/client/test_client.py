"""client.js and what it stands on: each file of tests here is run by Node.js, which Playwright brings along."""

import subprocess
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable

pytestmark = pytest.mark.database_independent

FILES = sorted(Path(__file__).parent.glob("*.test.js"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_client(file: Path) -> None:
    """No test of the file fails, and there are some."""
    node, _ = compute_driver_executable()
    result = subprocess.run(
        [node, "--test", "--test-reporter=tap", file], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout
    assert "# fail 0\n" in result.stdout
    assert "\n# tests 0\n" not in result.stdout
