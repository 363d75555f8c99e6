"""Mentions of everybody, by service: they are disarmed, and nothing else is changed."""

import pytest

from notifications.transports.mentions import without_mentions


@pytest.mark.parametrize(
    ("service", "text", "left"),
    [
        ("discord", "@everyone, @here and <@&42>", "@|everyone, @|here and <|@&42>"),
        ("discord", "x@EVERYONE", "x@|EVERYONE"),
        ("slack", "<!channel> <!subteam^S1|all> @channel", "<|!channel> <|!subteam^S1|all> @|channel"),
        ("gchat", "<users/all> @all", "<|users/all> @all"),
        ("mmosts", "@all @channel @here", "@|all @|channel @|here"),
        ("matrixs", "@room", "@|room"),
        ("zulip", "@**all** @_**all**", "@|**all** @|_**all**"),
        ("wxteams", "<@all>", "<|@|all>"),
        ("unheard", "@everyone @all <!here>", "@|everyone @|all <|!here>"),
        ("tgram", "@all, a <b>, me@all.example", "@all, a <b>, me@all.example"),
        ("json", "@everyone", "@everyone"),
        ("discord", "me@example.com, @alice, @hereford, a < b", "me@example.com, @alice, @hereford, a < b"),
    ],
)
def test_by_service(service: str, text: str, left: str) -> None:
    """In the expected texts, a bar stands for the zero-width space."""
    assert without_mentions(text, service) == left.replace("|", "\u200b").replace("S1\u200ball", "S1|all")
