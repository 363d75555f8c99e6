"""Adds up JUnit reports of test runs: `count_tests.py REPORT…` prints `N passed, N failed, N skipped`, its last line.

Exit code 1 if a test failed, none passed, or a report is not there: a run that has not reported has not passed.
"""

import sys
from xml.etree import ElementTree


def main(paths: list[str]) -> int:
    """Count and print; returns the exit code."""
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
    sys.stdout.write(f"{passed} passed, {failed} failed, {skipped} skipped\n")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
