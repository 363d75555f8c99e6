"""
Disarms mentions: a text that may contain a stranger's words must not alert everybody in a chat.

Owns which words mention everybody, by service. Does not own sending (apprise).
"""

import re

__all__ = ["without_mentions"]

# A zero-width space. Put after the mark of a mention, it keeps the service from recognising the mention.
_BREAK = "\u200b"

# Scheme of an Apprise URL → patterns of the words that, after an "@", mention everybody or a whole group.
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
# Services without mentions, most of them read by programs: their text is left unchanged.
_MACHINES = frozenset({"json", "xml", "form", "mailto"})
# For services that are not listed: the words of all others.
_ANY = tuple(dict.fromkeys(word for words in _WORDS.values() for word in words))
# What follows a "<" in a mention: Slack's <!channel> and groups, Discord's roles (<@&…>), Webex's <@all>, Google Chat's
# <users/all>, Teams' <at>.
_TAGS = r"!|@&|@all|users/all|at\b"


def without_mentions(text: str, service: str) -> str:
    """
    The text with all mentions of everybody disarmed.

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
