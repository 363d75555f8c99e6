"""
Shortening a text to what a service takes.

Owns the search for the longest beginning that fits. Does not own limits (each transport knows its own).
"""

from collections.abc import Callable

__all__ = ["shorten"]

ELLIPSIS = "…"


def shorten(text: str, fits: Callable[[str], bool]) -> str:
    """
    The text if it fits, else its longest beginning that fits with an ellipsis; "" if nothing does.

    Args:
        fits: Whether a text is short enough. If a beginning of the text fits, every shorter one must fit too.

    Guarantees:
        `fits` is called at most once for each binary digit of the text's length, and twice more, whatever it answers.
    """
    if fits(text):
        return text
    if not fits(ELLIPSIS):
        return ""
    # The beginning of `low` letters fits; that of `high` letters does not.
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
