"""Adds up JUnit reports of test runs: `count_tests.py REPORT…` prints `N passed, N failed, N skipped`, its last line.

Above it stands each test that failed, with the end of what it said: whoever sees only the end of a log sees why.
Exit code 1 if a test failed, none passed, or a report is not there: a run that has not reported has not passed.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

# Of what a failed test said, this many lines are shown.
SHOWN_LINES = 60


def main(paths: list[str]) -> int:
    """Show the failures and count; returns the exit code."""
    passed = failed = skipped = 0
    for path in paths:
        try:
            suites = list(ElementTree.parse(path).iter("testsuite"))  # noqa: S314 - pytest wrote it just now
        except (OSError, ElementTree.ParseError) as error:
            sys.stdout.write(f"a test run left no report: {error}\n")
            failed += 1
            continue
        for suite in suites:
            count = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
            failed += count["failures"] + count["errors"]
            skipped += count["skipped"]
            passed += count["tests"] - count["failures"] - count["errors"] - count["skipped"]
            show_failures(suite, run=Path(path).stem)
    sys.stdout.write(f"{passed} passed, {failed} failed, {skipped} skipped\n")
    return 1 if failed or not passed else 0


def show_failures(suite: ElementTree.Element, *, run: str) -> None:
    """Print the tests of `suite` that failed, each with the last lines of what it said."""
    for case in suite.iter("testcase"):
        for failure in (*case.iter("failure"), *case.iter("error")):
            sys.stdout.write(f"== {run}: {failure.tag} in {case.get('classname')}::{case.get('name')}\n")
            said = (failure.text or failure.get("message") or "").splitlines()
            sys.stdout.writelines(f"{run} | {line}\n" for line in said[-SHOWN_LINES:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
