"""Untrusted texts: nothing in them controls a terminal, and a flood of them does not fill a log."""

import logging

import pytest

from realtime.untrusted import text
from realtime.untrusted.text import LimitedLog, printable

logger = logging.getLogger("tests.foreign_text")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain, öäü, 日本, 🚚", "plain, öäü, 日本, 🚚"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\x00 \ud800", r"\x00 \ud800"),
        (b"\x88 and \xc3\xa4", r"\x88 and ä"),
    ],
)
def test_what_would_act_on_a_terminal_is_escaped(raw: str | bytes, shown: str) -> None:
    """Letters of all languages stay."""
    assert printable(raw, limit=100) == shown


@pytest.mark.parametrize("raw", ["x" * 1000, b"x" * 1000, "\x1b" * 1000, "\x1b" * 49, b"\xff" * 1000])
def test_it_is_bounded_and_says_so(raw: str | bytes) -> None:
    """Also where each letter takes several to be shown."""
    shown = printable(raw, limit=50)
    assert len(shown) == 51
    assert shown.endswith("…")


def test_a_flood_of_one_reason_is_some_lines_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    """Another reason has lines of its own."""
    log = LimitedLog(logger)
    for number in range(1000):
        log.warning("bad", "bad request %d", number)
    log.warning("other", "other request")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == text.LINES_AT_ONCE + 1
    assert lines[-1] == "other request"
    log.flush()
    assert caplog.records[-1].getMessage() == f"{1000 - text.LINES_AT_ONCE} more: bad"
    assert log.left_out == {}


def test_the_next_line_says_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When time has brought a token back."""
    monkeypatch.setattr(text, "LINES_PER_SECOND", 0.0)
    log = LimitedLog(logger)
    for _ in range(text.LINES_AT_ONCE + 7):
        log.warning("bad", "bad %s", "request")
    log._buckets["bad"]._left = 1.0
    log.warning("bad", "bad %s", "request")
    assert caplog.records[-1].getMessage() == "bad request (and 7 more since the last line)"
