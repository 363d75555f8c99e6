"""Receivers for the transports under test: a real HTTP server and a real mail server, each in a thread of its own."""

import asyncio
import contextlib
import email
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default as default_policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller

from tests.support.waiting import wait_until_sync

__all__ = ["HttpReceiver", "MailReceiver", "Reply", "Request", "http_receiver", "mail_receiver"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What it answers; with a gate, not before that is set."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"thanks"
    gate: threading.Event | None = None


class HttpReceiver:
    """
    An HTTP server that remembers what it was sent.

    Args:
        port: Where it listens; one of the system's choice by default.

    Attributes:
        reply: What it answers, or a function of the request.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.reply: Reply | Callable[[Request], Reply] = Reply()
        self._server = _Server(("127.0.0.1", port), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, request: Request) -> Reply:
        """Remember the request and say what is answered."""
        self.requests.append(request)
        reply = self.reply(request) if callable(self.reply) else self.reply
        if reply.gate is not None:
            reply.gate.wait(30)
        return reply

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # As many as come at once: beyond it connections are dropped, and tried again after a second.
    request_queue_size = 128


def _handler_for(receiver: HttpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = receiver.answer(Request(path=self.path, headers=headers, body=body))
            # Whoever asked may have gone.
            with contextlib.suppress(OSError):
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


class _Controller(Controller):
    """aiosmtpd's, on a port of the system's choice; it ends when every connection has."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections: list[Any] = []

    def factory(self) -> Any:
        self._connections.append(super().factory())
        return self._connections[-1]

    def stop(self, no_assert: bool = False) -> None:
        # Else their transports outlive the event loop.
        wait_until_sync(lambda: all(connection.transport is None for connection in self._connections))
        super().stop(no_assert)

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


class MailReceiver:
    """
    A mail server that keeps what it takes.

    Attributes:
        answer: What it says to a message; one that does not begin with 2 is a refusal.
        answer_to_recipient: Likewise to RCPT TO.
        thinks_seconds: How long it takes over each of the two.
    """

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.answer = "250 taken"
        self.answer_to_recipient = ""
        self.thinks_seconds = 0.0
        self.count = 0
        self._controller = _Controller(self, hostname="127.0.0.1", port=0)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        await asyncio.sleep(self.thinks_seconds)
        if self.answer_to_recipient:
            return self.answer_to_recipient
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        await asyncio.sleep(self.thinks_seconds)
        self.count += 1
        if self.answer.startswith("2"):
            message = email.message_from_bytes(envelope.content, _class=EmailMessage, policy=default_policy)
            self.messages.append(message)
        return self.answer

    @property
    def port(self) -> int:
        return self._controller.port

    def start(self) -> None:
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    @property
    def mailers(self) -> dict[str, Any]:
        """The setting MAILERS that leads here."""
        options = {"host": "127.0.0.1", "port": self.port, "timeout": 30}
        return {"default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend", "OPTIONS": options}}


@contextlib.contextmanager
def http_receiver() -> Iterator[HttpReceiver]:
    """A running one."""
    receiver = HttpReceiver()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


@contextlib.contextmanager
def mail_receiver[Receiver: MailReceiver](receiver: Receiver | None = None) -> Iterator[Receiver | MailReceiver]:
    """A running one."""
    receiver = receiver or MailReceiver()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
