"""
Email, by Django's mail framework: whichever backend the project has.

Owns the message and what a refusal means. Does not own the connection (Django's MAILERS, or EMAIL_… settings).
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
        mailer: The alias in Django's MAILERS; its default one by default. Needs Django 6.1.
        message_id_domain: The right side of the Message-ID, which is the same in every attempt.
        timeout_seconds: How long the mail server may be silent. The mail backend's own timeout counts if it is shorter.

    Guarantees:
        The message has the delivery's key as its Message-ID, by which mail servers and readers may drop a copy. Where a
        process dies between the server's answer and its record, a copy cannot be excluded: SMTP takes no idempotency
        key.
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
        """False with a mail backend of Django's that only prints, keeps or drops mails."""
        try:
            backend = self._backend()
        except Exception:
            # Another system check reports what is wrong with the mailer.
            return True
        return type(backend).__module__ not in LOCAL_BACKENDS

    def find_addresses(self, recipient: Any) -> Iterable[Address]:
        """The user's e-mail address, unless it is empty."""
        email = getattr(recipient, recipient.get_email_field_name(), "")
        return [Address(key="email", value=email)] if email else []

    async def send(self, message: Message, address: Address) -> str:
        """Hand it to the mail server, in a thread."""
        mail = self._make(message, address.value)
        try:
            count = await self.in_thread(self._hand_over, mail)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPResponseException, ValueError) as error:
            if _is_permanent(error):
                raise PermanentError(_said(error)) from error
            raise
        if not count:
            raise OSError("the mail backend took no message")
        return "taken by the mail server"

    def _make(self, message: Message, email: str) -> EmailMultiAlternatives:
        texts = message.texts
        mail = EmailMultiAlternatives(
            # Without a subject, the beginning of what is said; a line break would be a header of its own.
            " ".join((texts.subject or texts.body[:78]).split()),
            texts.body_with_link,
            self._from_email,
            [email],
            headers={
                "Message-ID": f"<{message.key}@{self._message_id_domain}>",
                # So that holiday replies are not sent (RFC 3834).
                "Auto-Submitted": "auto-generated",
            },
        )
        if texts.html:
            mail.attach_alternative(texts.html, "text/html")
        return mail

    def _backend(self) -> Any:
        # Where a project still has EMAIL_… settings and no MAILERS, Django makes "default" of them.
        return django_mail.get_connection() if _mailers is None else _mailers[self._mailer or "default"]

    def _hand_over(self, mail: EmailMultiAlternatives) -> int | None:
        backend = self._backend()
        # Without one, which is Django's default, a server that says nothing keeps the thread for ever.
        if hasattr(backend, "timeout") and (backend.timeout is None or backend.timeout > self.timeout_seconds):
            backend.timeout = self.timeout_seconds
        count: int | None = backend.send_messages([mail])
        return count


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, smtplib.SMTPAuthenticationError | smtplib.SMTPConnectError | smtplib.SMTPHeloError):
        # The server refuses us and not the message: that is for the operator to mend, and worth another attempt.
        return False
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(_is_final(code, said) for code, said in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return _is_final(error.smtp_code, error.smtp_error)
    # A header or an address that Django refuses to put into a message.
    return True


def _is_final(code: int, said: bytes | str) -> bool:
    return code >= PERMANENT_CODES and not is_not_now(_text(said))


def _said(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "; ".join(f"{code} {_text(said)}" for code, said in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_text(error.smtp_error)}"
    return f"{type(error).__name__}: {error}"


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said
