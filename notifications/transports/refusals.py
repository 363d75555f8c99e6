"""
Recognises by a provider's text that a refusal is temporary although its code is permanent.

Owns which texts mean "too many" or "not now". Does not own which codes are permanent (email, http, apprise).
"""

import re

__all__ = ["TEMPORARY_STATUSES", "is_not_now"]

# HTTP statuses below 500 that are temporary.
TEMPORARY_STATUSES = frozenset({408, 425, 429})

# Texts with which providers refuse too many messages, but with a permanent code: 550 or 554 of mail servers, 400 or 403
# of APIs. "limit" or "exceeds" alone do not count: they may mean that one message is too large.
_NOT_NOW = re.compile(
    r"""
    \btoo \s+ (?:many|fast|much \s+ mail|frequent\w*) \b
    | \brate[\s_-]* (?:limit\w*|exceeded|control\w*) | \b(?:sending|message|request|delivery|mail\w*|max\w*) \s+ rate \b
    | \b(?:throttl\w+ | slow \s+ down | flood(?:ing|ed)? | greylist\w* | graylist\w*)
    | \b(?:daily|hourly|sending|user) \s+ (?:\w+ \s+){0,2} (?:limit|quota) \b
    | \b(?:try|retry) \s+ (?:\w+ \s+){0,2} later \b | \btry \s+ again \b | \btemporar(?:y|ily) \b
    | \bper[\s_-]+ (?:second|minute|hour|day) \b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A temporary enhanced status code (RFC 3463), whatever the code before it: "550 4.7.1 …". Also 5.7.28, "mail flood
# detected" (RFC 5248).
_TEMPORARY_CODE = re.compile(r"(?<![\d.])(?:4\.\d{1,3}\.\d{1,3}|5\.7\.28)(?![\d.])")
# How many characters of a provider's text are searched.
_LOOKED_AT = 2000


def is_not_now(text: str) -> bool:
    """Whether the text of a refusal says that it is temporary, or that there were too many messages."""
    text = text[:_LOOKED_AT]
    return _NOT_NOW.search(text) is not None or _TEMPORARY_CODE.search(text) is not None
