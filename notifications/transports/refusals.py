"""
What a refusal means for the next attempt, where a provider's words say more than its code.

Owns when a refusal says "too many" or "not now". Does not own codes (email, http, apprise).
"""

import re

__all__ = ["TEMPORARY_STATUSES", "is_not_now"]

# HTTP's 4xx that say "not now" rather than "never".
TEMPORARY_STATUSES = frozenset({408, 425, 429})

# What providers say when they are sent too much at a time, under codes that would be final: mail servers answer 550 or
# 554, APIs 400 or 403. Not "limit" or "exceeds" alone, which are about one message that is too large.
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
# An enhanced status code (RFC 3463) that is temporary, whatever the code before it: "550 4.7.1 …"; and "mail flood
# detected" and its like (RFC 7372, RFC 5248).
_TEMPORARY_CODE = re.compile(r"(?<![\d.])(?:4\.\d{1,3}\.\d{1,3}|5\.7\.28)(?![\d.])")
# Of what a provider says, so much is looked at.
_LOOKED_AT = 2000


def is_not_now(text: str) -> bool:
    """Whether a refusal says that there is too much at a time, or that it is temporary, whatever its code."""
    text = text[:_LOOKED_AT]
    return _NOT_NOW.search(text) is not None or _TEMPORARY_CODE.search(text) is not None
