"""The conformance suite finds each fault of a backend, and says which rule it breaks."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.faulty_tasks import FAULTS

pytestmark = pytest.mark.database_independent

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Of a run on all faulty backends: the fault → the tests that failed → what they said."""
    report = tmp_path_factory.mktemp("faults") / "report.xml"
    chosen = " or ".join(f"({fault} and {test})" for fault, test in FAULTS.items())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", chosen, f"--junitxml={report}", "tests/support/faulty_tasks.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, str]] = {fault: {} for fault in FAULTS}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it just now
        for failure in case.iter("failure"):
            fault = (case.get("classname") or "").partition(".Test_")[2]
            found[fault][(case.get("name") or "").partition("[")[0]] = failure.text or ""
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_finds_a_fault(failures: dict[str, dict[str, str]], fault: str) -> None:
    """By the test of the rule; the failure has the rule and its source."""
    (said,) = failures[fault].values()
    assert [*failures[fault]] == [FAULTS[fault]]
    assert "Rule: " in said
    assert "Source: " in said
