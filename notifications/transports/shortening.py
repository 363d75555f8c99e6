"""
Shortens a text to the size that a service accepts.

Owns the search for the longest prefix that fits. Does not own the limits (each transport has its own).
"""

from collections.abc import Callable

__all__ = ["shorten"]

ELLIPSIS = "…"


def shorten(text: str, fits: Callable[[str], bool]) -> str:
    """
    The text if it fits, else its longest prefix that fits together with an ellipsis; "" if nothing fits.

    Args:
        fits: Whether a text is short enough. If a prefix of the text fits, every shorter prefix must fit too.

    Guarantees:
        `fits` is called at most `len(text).bit_length() + 2` times, whatever it answers.
    """
    if fits(text):
        return text
    if not fits(ELLIPSIS):
        return ""
    # The prefix of `low` characters fits; the prefix of `high` characters does not.
    low, high = 0, len(text)
    for _ in range(high.bit_length()):
        middle = (low + high) // 2
        if middle == low:
            break
        if fits(text[:middle] + ELLIPSIS):
            low = middle
        else:
            high = middle
    return text[:low] + ELLIPSIS
