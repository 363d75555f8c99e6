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
    begin = printable(" ".join(text[:TEXT_SHOWN].split()), limit=TEXT_SHOWN)
    if len(text) <= TEXT_SHOWN:
        return mask_text(begin)
    # Masked with the mark of the cut, which may be within an address.
    return f"{mask_text(f'{begin.removesuffix("…")}…')} ({len(text):,} characters)"
