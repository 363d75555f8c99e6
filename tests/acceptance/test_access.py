"""A connection ends with its session or account, in every web process of the site."""

import asyncio
import time

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime.protocol.close_codes import CloseCode
from tests.acceptance.deployed_site import DeployedSite
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.database_independent]

# What happens to each user, by name.
CODES = {
    "leaver": CloseCode.SIGNED_OUT,
    "suspect": CloseCode.DEACTIVATED,
    "renewer": CloseCode.PASSWORD_CHANGED,
    "nuisance": CloseCode.DISCONNECTED,
}
LOG_IN = """
from django.contrib.auth.models import User
from django.test import Client
for name in {names}:
    user = User.objects.create_user(f"{{name}}-{number}", password="first")
    for _ in range(2):
        client = Client()
        client.force_login(user)
        print(name, client.cookies["sessionid"].value)
"""
# Done in a separate process, as by a page of another web server.
END = """
import time
from django.contrib.auth.models import User
from django.test import Client
from realtime.access import disconnect
leaver = Client()
leaver.cookies["sessionid"] = "{session}"
leaver.logout()
suspect = User.objects.get(username="suspect-{number}")
suspect.is_active = False
suspect.save()
renewer = User.objects.get(username="renewer-{number}")
renewer.set_password("second")
renewer.save()
disconnect(User.objects.get(username="nuisance-{number}").pk)
print(time.monotonic())
"""
# The promise is two seconds; a machine that is busy with other tests may need longer. The check that
# would end a connection anyway comes every 45 seconds.
DEADLINE_SECONDS = 30


def run(site: DeployedSite, code: str) -> list[str]:
    return site.manage("shell", "-v0", "-c", code).split()


class Ending:
    """One connection, with the time and the code of its close."""

    code: int | None = None
    ended_at = 0.0

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.task = asyncio.create_task(self._wait())

    @classmethod
    async def open(cls, url: str, session: str) -> "Ending":
        address = url.replace("http://", "ws://")
        headers = {"Cookie": f"sessionid={session}"}
        socket = await connect(f"{address}/ws/", additional_headers=headers, proxy=None, compression=None)
        return cls(socket)

    async def _wait(self) -> None:
        try:
            while True:
                await self.socket.recv()
        except ConnectionClosed as closed:
            self.ended_at = time.monotonic()
            self.code = closed.rcvd.code if closed.rcvd else None


async def test_it_ends_in_every_web_process(site: DeployedSite) -> None:
    """It is closed soon, with the code of the cause. A logout does not close the user's other browser."""
    number = time.monotonic_ns()
    words = await asyncio.to_thread(run, site, LOG_IN.format(names=tuple(CODES), number=number))
    sessions: dict[str, list[str]] = {name: [] for name in CODES}
    for name, session in zip(words[::2], words[1::2], strict=True):
        sessions[name].append(session)
    with site.another_web(site.server) as other:
        urls = (site.url, other)
        ending = {
            name: [await Ending.open(url, session) for url in urls for session in of_name]
            for name, of_name in sessions.items()
        }
        # The first and the third are of the first session.
        staying = [ending["leaver"].pop(index) for index in (3, 1)]
        said = await asyncio.to_thread(run, site, END.format(session=sessions["leaver"][0], number=number))
        all_of_them = [each for of_name in ending.values() for each in of_name]
        await wait_until(lambda: all(each.task.done() for each in all_of_them))
        assert {name: {each.code for each in of_name} for name, of_name in ending.items()} == {
            name: {code} for name, code in CODES.items()
        }
        assert max(each.ended_at for each in all_of_them) - float(said[-1]) < DEADLINE_SECONDS
        assert not any(each.task.done() for each in staying)
        # A user without a valid session cannot connect again; a user who was only disconnected can.
        for name in ("leaver", "suspect", "renewer"):
            with pytest.raises(InvalidStatus, match="403"):
                await Ending.open(other, sessions[name][0])
        await (await Ending.open(other, sessions["nuisance"][0])).socket.close()
        for each in staying:
            await each.socket.close()
