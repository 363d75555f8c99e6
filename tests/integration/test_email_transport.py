"""Email by a real mail server."""

import asyncio
import smtplib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from notifications.transports import Address
from notifications.transports.email import EmailTransport
from realtime.exceptions import PermanentError
from tests.support.messages import KEY, message
from tests.support.receivers import MailReceiver, mail_receiver

pytestmark = pytest.mark.database_independent
MAILER = {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}
TRANSPORT = EmailTransport(name="email", from_email="Shop <shop@example.com>", message_id_domain="example.com")


@pytest.fixture
def server(settings: Any) -> Iterator[MailReceiver]:
    with mail_receiver() as server:
        settings.MAILERS = server.mailers
        yield server


def to(email: str = "alice@example.com") -> Address:
    return Address(key="email", value=email)


async def test_a_message_arrives_with_its_key_as_its_id(server: MailReceiver) -> None:
    """The same in every attempt. It asks for no automatic replies."""
    for _ in range(2):
        assert await TRANSPORT.send(message(html="<p>Unterwegs</p>"), to()) == "accepted by the mail server"
    first, second = server.messages
    assert first["Message-ID"] == second["Message-ID"] == f"<{KEY}@example.com>"
    assert (first["From"], first["To"], first["Subject"]) == ("Shop <shop@example.com>", "alice@example.com", "Order 7")
    assert first["Auto-Submitted"] == "auto-generated"
    body, html = first.get_body(("plain",)), first.get_body(("html",))
    assert body is not None
    assert html is not None
    assert body.get_content().strip() == "Unterwegs – ütf"
    assert html.get_content().strip() == "<p>Unterwegs</p>"


async def test_a_subject_is_one_line(server: MailReceiver) -> None:
    """A line break in it adds no header. Without a subject, the beginning of the text is used."""
    await TRANSPORT.send(message(subject="Hello\r\nBcc: eve@example.com"), to())
    await TRANSPORT.send(message(subject="", body="Your order\nis on its way"), to())
    assert [mail["Subject"] for mail in server.messages] == [
        "Hello Bcc: eve@example.com",
        "Your order is on its way",
    ]
    assert not any(mail["Bcc"] for mail in server.messages)


@pytest.mark.parametrize(
    ("where", "answer", "is_permanent"),
    [
        ("answer", "554 5.7.1 spam", True),
        ("answer", "451 4.3.0 try later", False),
        ("answer_to_recipient", "550 5.1.1 no such user", True),
        ("answer_to_recipient", "450 4.2.1 greylisted", False),
        ("answer", "421 4.7.0 closing", False),
        ("answer", "552 5.3.4 message exceeds the size limit", True),
        ("answer", "550 5.7.0 too many messages from you", False),
        ("answer", "554 Maximum sending rate exceeded", False),
        ("answer", "550 5.4.5 Daily user sending limit exceeded", False),
        ("answer", "550 5.7.28 mail flood detected", False),
        ("answer_to_recipient", "550 4.7.1 come back", False),
        ("answer_to_recipient", "550 5.7.1 rate limited, slow down", False),
        ("answer_to_recipient", "550 5.1.1 does not exist, try double-checking the address", True),
    ],
)
async def test_a_refusal_is_permanent_or_temporary(
    server: MailReceiver, where: str, answer: str, is_permanent: bool
) -> None:
    """The mail server's code decides, but a refusal because of too many messages is temporary with any code."""
    setattr(server, where, answer)
    with pytest.raises(Exception) as caught:
        await TRANSPORT.send(message(), to())
    assert isinstance(caught.value, PermanentError) == is_permanent
    if is_permanent:
        assert str(caught.value) == answer
    assert server.messages == []


async def test_a_missing_mail_server_is_a_temporary_failure(server: MailReceiver, settings: Any) -> None:
    """An operator can start it."""
    settings.MAILERS = {"default": {**server.mailers["default"], "OPTIONS": {"host": "127.0.0.1", "port": 1}}}
    with pytest.raises(ConnectionRefusedError):
        await TRANSPORT.send(message(), to())


async def test_an_invalid_address_is_refused_for_good(server: MailReceiver) -> None:
    """Before anything is sent."""
    with pytest.raises(PermanentError):
        await TRANSPORT.send(message(), to("alice@example.com\nBcc: eve@example.com"))
    assert server.count == 0


async def test_a_mail_server_that_does_not_answer_times_out(settings: Any) -> None:
    """In the thread itself, although Django's default is to wait for ever. The project's timeout may be shorter."""
    transport = EmailTransport(name="email", timeout_seconds=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = {"host": "127.0.0.1", "port": silent.getsockname()[1]}
        for given, waits_for in (({}, 0.2), ({"timeout": 60}, 0.2), ({"timeout": 0.05}, 0.05)):
            settings.MAILERS = {"default": {**MAILER, "OPTIONS": {**options, **given}}}
            started = time.monotonic()
            with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
                await asyncio.wait_for(transport.send(message(), to()), 30)
            assert waits_for <= time.monotonic() - started < 30


async def test_the_result_of_a_slow_mail_server_counts(server: MailReceiver) -> None:
    """It accepts one email, and that is recorded as sent. No other attempt may run at the same time."""
    transport = EmailTransport(name="email", timeout_seconds=12.0)
    # Longer than that in all; a machine that stands still for five seconds does not break it off in one.
    server.thinks_seconds = 6.1
    assert await transport.send_in_time(message(), to()) == "accepted by the mail server"
    assert len(server.messages) == 1


def test_a_user_without_an_address_gets_nothing() -> None:
    """With any name of the email field."""
    assert [address.value for address in TRANSPORT.find_addresses(User(email="a@example.com"))] == ["a@example.com"]
    assert list(TRANSPORT.find_addresses(User())) == []
