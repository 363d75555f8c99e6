"""The bot's default transport: one line on the standard output."""

import pytest

from notifications.transports.console import send_message


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Your order is on its way!", "user 42: Your order is on its way!"),
        ("Grüße 🎉", "user 42: Grüße 🎉"),
        ("two\nlines\r\n", r"user 42: two\nlines\r\n"),
        ("\x1b[31mred\x07\u202e", r"user 42: \x1b[31mred\x07\u202e"),
    ],
)
async def test_a_message_is_one_line_that_controls_no_terminal(
    capsys: pytest.CaptureFixture[str], message: str, line: str
) -> None:
    """Whatever it says."""
    await send_message(42, message)
    assert capsys.readouterr().out == f"{line}\n"
