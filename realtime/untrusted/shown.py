"""
Untrusted texts on one line: printable, shortened, and without secrets.

Owns the form in which they are shown to people. Does not own what counts as a secret (masking), what is printable
(text), nor escaping for HTML.
"""

from realtime.untrusted.masking import mask_text
from realtime.untrusted.text import printable

__all__ = ["shown_text"]

# How many characters of a text are shown.
TEXT_SHOWN = 2000


def shown_text(raw: str | bytes) -> str:
    """The text on one line, without secrets. Of a long text, the first TEXT_SHOWN characters and its length."""
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else raw
    begin = mask_text(printable(" ".join(text[:TEXT_SHOWN].split()), limit=TEXT_SHOWN))
    return begin if len(text) <= TEXT_SHOWN else f"{begin}… ({len(text):,} characters)"
