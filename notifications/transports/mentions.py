"""
Taking the sting out of mentions: a text that a stranger had a hand in must not ring everybody in a chat.

Owns which words address everybody, by service. Does not own sending (apprise).
"""

import re

__all__ = ["without_mentions"]

# Between a mark and its word: invisible, and then no service reads the two as a mention.
_BREAK = "\u200b"

# By the scheme of an Apprise URL: words after an "@", and what follows a "<", that address everybody or a whole group.
_WORDS: dict[str, tuple[str, ...]] = {
    "discord": ("everyone", "here"),
    "guilded": ("everyone", "here"),
    "slack": ("everyone", "here", "channel"),
    "mmost": ("all", "channel", "here"),
    "rocket": ("all", "here"),
    "matrix": ("room",),
    "zulip": (r"\*\*all", r"\*\*everyone", r"\*\*channel", r"\*\*stream", r"\*\*topic", r"_?\*\*all"),
    "wxteams": ("all",),
    "gchat": (),
    "tgram": (),
    "line": (),
    "pbul": (),
    "pover": (),
}
# Read by programs: nothing rings, and a letter more might be one too many.
_MACHINES = frozenset({"json", "xml", "form", "mailto"})
# Of a service that is not listed: all of them.
_ANY = tuple(dict.fromkeys(word for words in _WORDS.values() for word in words))
# Discord's roles, Slack's <!channel> and groups, Google Chat's <users/all>, Webex's <@all>, Teams' <at>.
_TAGS = r"!|@&|@all|users/all|at\b"


def without_mentions(text: str, service: str) -> str:
    """
    The text, in which nothing addresses everybody.

    Args:
        service: The scheme of the service's Apprise URL.
    """
    # "mmosts" is "mmost" over TLS.
    name = service.lower() if service.lower() in _WORDS else service.lower().removesuffix("s")
    if name in _MACHINES:
        return text
    words = _WORDS.get(name, _ANY)
    marks = [rf"<(?={_TAGS})"]
    if words:
        marks.append(rf"@(?=(?:{'|'.join(words)})\b)")
    return re.sub("|".join(marks), lambda found: found[0] + _BREAK, text, flags=re.IGNORECASE)
