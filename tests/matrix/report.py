"""
The results of a run of the matrix as a table, as JSON, as a JUnit report, and as the table in the documentation.

Owns their format. Does not own the results (cell).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

from tests.matrix.cell import Result

__all__ = ["DOCS", "markdown", "table", "write_docs", "write_json", "write_junit"]

DOCS = Path(__file__).resolve().parent.parent.parent / "docs/reference/versions.md"
BEGIN, END = "<!-- Written by make matrix -->\n", "<!-- End -->\n"
HEADINGS = ("Python", "Django", "dependencies", "Redis or Valkey", "database", "result")


def table(results: Sequence[Result]) -> str:
    """For a terminal."""
    rows = [(*HEADINGS, "seconds"), *((*_row(result), f"{result.seconds:.0f}") for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def markdown(results: Sequence[Result], not_run: Mapping[str, str]) -> str:
    """For the documentation."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(_row, results)]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    if not_run:
        names = ", ".join(not_run)
        text += f"\nSupported, but not in this run, because the machine had no such program: {names}.\n"
    return text


def write_docs(results: Sequence[Result], not_run: Mapping[str, str]) -> None:
    """Replace the table in the documentation."""
    text = DOCS.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCS.write_text(f"{before}{BEGIN}\n{markdown(results, not_run)}\n{END}{after}")


def write_json(path: Path, results: Sequence[Result], not_run: Mapping[str, str]) -> None:
    """Write all results of the run."""
    cells = [{**asdict(result), "has_passed": result.has_passed} for result in results]
    path.write_text(json.dumps({"cells": cells, "not_run": dict(not_run)}, indent=2) + "\n")


def write_junit(path: Path, results: Sequence[Result]) -> None:
    """Write a test case for each step, or for each test of a step that ran tests."""
    suites = ElementTree.Element("testsuites")
    for result in results:
        suite = ElementTree.SubElement(suites, "testsuite", name=str(result.cell))
        cases = failures = 0
        for step in result.steps:
            for number in range(step.count):
                name = step.name if step.count == 1 else f"{step.name} {number + 1}"
                case = ElementTree.SubElement(suite, "testcase", classname=str(result.cell), name=name)
                cases += 1
                if step.failure:
                    ElementTree.SubElement(case, "failure").text = _printable(step.failure)
                    failures += 1
        suite.attrib.update(tests=str(cases), failures=str(failures), errors="0", skipped="0")
    ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


def _row(result: Result) -> tuple[str, ...]:
    failed = [step.name for step in result.steps if step.failure]
    django, _, bounds = result.cell.django.partition(", ")
    return (
        result.python or result.cell.python,
        result.django or django,
        bounds or "newest",
        result.cell.server,
        result.cell.database,
        f"failed: {', '.join(failed)}" if failed else f"{sum(step.count for step in result.steps)} passed",
    )


def _printable(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
