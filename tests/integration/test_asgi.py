"""The site as one ASGI application, beside its WebSockets (test_consumer.py)."""

import asyncio
from typing import Any

import pytest
from channels.testing import HttpCommunicator
from django.http import HttpRequest, HttpResponse
from django.urls import path

from project.asgi import application
from realtime import conf


def greet(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


urlpatterns = [path("greet/", greet)]


async def test_a_server_that_stops_closes_the_redis_clients(signalbox: Any) -> None:
    """The lifespan protocol: told that the server starts, and at its end that it stops."""
    events: asyncio.Queue[Any] = asyncio.Queue()
    answers: list[str] = []

    async def send(event: dict[str, Any]) -> None:
        answers.append(event["type"])

    served = asyncio.create_task(application({"type": "lifespan", "asgi": {"version": "3.0"}}, events.get, send))
    events.put_nowait({"type": "lifespan.startup"})
    client = conf.async_redis()
    await client.ping()
    events.put_nowait({"type": "lifespan.shutdown"})
    await served
    assert answers == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert conf.async_redis() is not client


@pytest.mark.urls(__name__)
async def test_pages_are_served_beside_the_websockets() -> None:
    """HTTP goes to Django."""
    page = HttpCommunicator(application, "GET", "/greet/", headers=[(b"host", b"testserver")])
    response = await page.get_response()
    assert (response["status"], response["body"]) == (200, b"hello")
