"""
Email, with Django's mail framework and the project's mail backend.

Owns the message, and what a refusal means. Does not own the connection (Django's MAILERS, or EMAIL_… settings).
"""

import smtplib
from collections.abc import Iterable
from typing import Any

from django.core import mail as django_mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMultiAlternatives
from django.utils.translation import gettext_lazy as _

from notifications.transports.base import Address, Message, Transport
from notifications.transports.refusals import is_not_now
from realtime.exceptions import PermanentError

__all__ = ["EmailTransport"]

# SMTP reply codes from this one on are permanent (RFC 5321, section 4.2.1), unless the reply's text says otherwise.
PERMANENT_CODES = 500
# Django's mail backends that send nothing.
LOCAL_BACKENDS = frozenset(f"django.core.mail.backends.{name}" for name in ("console", "dummy", "filebased", "locmem"))
# Django's MAILERS; None before Django 6.1, which has the EMAIL_… settings alone.
_mailers: Any = getattr(django_mail, "mailers", None)


class EmailTransport(Transport):
    """
    Args:
        from_email: The sender; Django's DEFAULT_FROM_EMAIL by default.
        mailer: The alias in Django's MAILERS; "default" by default. Needs Django 6.1.
        message_id_domain: The domain of the Message-ID.
        timeout_seconds: How long to wait for the mail server. The mail backend's own timeout applies if it is shorter.

    Guarantees:
        The delivery's key is the Message-ID in every attempt, so mail servers and clients can drop a copy. If a process
        dies between the server's answer and its record, there may be a copy: SMTP has no idempotency key.
    """

    label = _("Email")
    shows_links = True

    def __init__(
        self,
        *,
        name: str,
        timeout_seconds: float = 20.0,
        from_email: str | None = None,
        mailer: str | None = None,
        message_id_domain: str = "signalbox.invalid",
    ) -> None:
        super().__init__(name=name, timeout_seconds=timeout_seconds)
        if mailer is not None and _mailers is None:
            raise ImproperlyConfigured("mailer needs Django 6.1, which brings MAILERS: leave it out, and set EMAIL_…")
        self._from_email = from_email
        self._mailer = mailer
        self._message_id_domain = message_id_domain

    @property
    def reaches_people(self) -> bool:
        """False with a mail backend of Django's that only prints, stores or drops emails."""
        try:
            backend = self._backend()
        except Exception:
            # Another system check reports a wrong mailer.
            return True
        return type(backend).__module__ not in LOCAL_BACKENDS

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """The user's email address, unless it is empty."""
        email = getattr(recipient, recipient.get_email_field_name(), "")
        return [Address(key="email", value=email)] if email else []

    async def send(self, message: Message, address: Address) -> str:
        """Send it with the mail backend, in a thread."""
        mail = self._make(message, address.value)
        try:
            count = await self.in_thread(self._send_mail, mail)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPResponseException, ValueError) as error:
            if _is_permanent(error):
                raise PermanentError(_answer_of(error)) from error
            raise
        if not count:
            raise OSError("the mail backend did not send the message")
        return "accepted by the mail server"

    def _make(self, message: Message, email: str) -> EmailMultiAlternatives:
        texts = message.texts
        mail = EmailMultiAlternatives(
            # Without a subject, the beginning of the body. Line breaks are not allowed in a header.
            " ".join((texts.subject or texts.body[:78]).split()),
            texts.body_with_link,
            self._from_email,
            [email],
            headers={
                "Message-ID": f"<{message.key}@{self._message_id_domain}>",
                # Prevents automatic replies, such as holiday notices (RFC 3834).
                "Auto-Submitted": "auto-generated",
            },
        )
        if texts.html:
            mail.attach_alternative(texts.html, "text/html")
        return mail

    def _backend(self) -> Any:
        # If a project has EMAIL_… settings instead of MAILERS, Django makes the mailer "default" from them.
        return django_mail.get_connection() if _mailers is None else _mailers[self._mailer or "default"]

    def _send_mail(self, mail: EmailMultiAlternatives) -> int | None:
        backend = self._backend()
        # Django's default is no timeout: a server that does not answer would block the thread for ever.
        if hasattr(backend, "timeout") and (backend.timeout is None or backend.timeout > self.timeout_seconds):
            backend.timeout = self.timeout_seconds
        count: int | None = backend.send_messages([mail])
        return count


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, smtplib.SMTPAuthenticationError | smtplib.SMTPConnectError | smtplib.SMTPHeloError):
        # The server refuses us and not the message. The operator can fix that, so it is tried again.
        return False
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(_is_final(code, reply) for code, reply in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return _is_final(error.smtp_code, error.smtp_error)
    # ValueError: Django refuses a header or an address.
    return True


def _is_final(code: int, reply: bytes | str) -> bool:
    return code >= PERMANENT_CODES and not is_not_now(_text(reply))


def _answer_of(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "; ".join(f"{code} {_text(reply)}" for code, reply in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_text(error.smtp_error)}"
    return f"{type(error).__name__}: {error}"


def _text(reply: bytes | str) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply
