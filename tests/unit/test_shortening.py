"""Shortening a text: the longest prefix that fits is found with few calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifications.transports.shortening import shorten


@given(text=st.text(), limit=st.integers(min_value=0, max_value=60))
def test_the_longest_beginning_that_fits(text: str, limit: int) -> None:
    """By bytes, of which a character has one to four."""
    asked: list[str] = []

    def fits(part: str) -> bool:
        asked.append(part)
        return len(part.encode("utf-8", "surrogatepass")) <= limit

    short = shorten(text, fits)
    assert len(asked) <= len(text).bit_length() + 2
    if text in (short, ""):
        assert fits(text)
        return
    assert short == "" or fits(short)
    best = [text[:count] + "…" for count in range(len(text)) if fits(text[:count] + "…")]
    assert short == max(best, key=len, default="")


@pytest.mark.parametrize("answer", [True, False])
def test_it_ends_whatever_is_answered(answer: bool) -> None:
    """The question may be about more than the text: nothing of it may fit."""
    assert shorten("x" * 1000, lambda _: answer) == ("x" * 1000 if answer else "")
