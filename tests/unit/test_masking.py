"""Secrets in texts: hidden, also where the end of a text was cut off."""

import pytest

from realtime.tasks.masking import shown_value
from realtime.untrusted.masking import mask_begin, mask_text
from realtime.untrusted.shown import shown_text

SECRET = "s3cretpassw0rdverylongone"
ADDRESS = f"https://bot:{SECRET}@hooks.example.com/T0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://hooks.example.com/T0/B1?x=1 there", "see https://hooks.example.com/… there"),
        ("https://hooks.example.com:8443", "https://hooks.example.com:8443"),
        ("https://[fd00::a]:8443", "https://[fd00::a]:8443"),
        ("(https://hooks.example.com)", "(https://hooks.example.com)"),
        ("https://hooks.example.com/T0…", "https://hooks.example.com/…"),
        (f"{ADDRESS} is away", "https://hooks.example.com/… is away"),
        # Without the "@", or the rest, it cannot be told from a host.
        (f"https://bot:{SECRET}…", "https://bot:/…"),
        (f"https://{SECRET}…; again", "https://s3cr/… again"),
        ("https://bot:pass1word...", "https://bot:/…"),
        ("https://bot:p@ssword…", "https://sswo/…"),
        ("tgram://123456:ABC/7", "tgram://1234/…"),
        ("token=abc…", "token=•••"),
    ],
)
def test_of_an_address_the_host_is_shown(text: str, shown: str) -> None:
    """Nothing else; four characters if it may be a password."""
    assert mask_text(text) == shown


@pytest.mark.parametrize("cut", range(1, len(ADDRESS) + 1))
def test_no_cut_shows_a_password(cut: int) -> None:
    """Wherever it is: at most four characters of the address are shown before its host."""
    for shown in (
        mask_begin(f"{ADDRESS} is away", limit=cut),
        shown_text(f"{'x' * (1999 - cut)} {ADDRESS} is away"),
        shown_value(f"{'x' * (1999 - cut)} {ADDRESS} is away"),
    ):
        assert SECRET[:5] not in shown
        assert "…" in shown


def test_a_short_text_is_not_cut() -> None:
    """Nor marked."""
    assert mask_begin("503 Service Unavailable", limit=23) == "503 Service Unavailable"
    assert mask_begin("503 Service Unavailable", limit=22) == "503 Service Unavailabl…"
