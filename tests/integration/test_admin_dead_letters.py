"""The page "Dead letters": what was given up is seen, replayed and purged by those who may, and all of it recorded."""

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from notifications.admin import dead_letters
from realtime import conf
from realtime.redis.keys import Keys
from realtime.streams.keys import GroupKeys
from tests.support.redis_server import RedisServer
from tests.support.staff import make_staff, page

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signalbox"), pytest.mark.database_independent]
URL = "/admin/notifications/delivery/dead-letters/"
STREAM, GROUP = "notifications", "bot"


class Letters:
    """A group with dead letters, as a worker leaves them."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client, self.keys = client, keys
        self.stream, self.dead = keys.stream(STREAM), keys.dead_letters(STREAM, GROUP)
        client.sadd(keys.streams(), self.stream)
        client.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        client.xgroup_create(self.stream, "relay", id="0")

    def bury(self, user_id: object, entry_id: str, error: str = "550 no", **fields: str | bytes) -> str:
        own = {"_id": entry_id, "_reason": "failed", "_attempts": 8, "_error": error, "_first_seen": 1, "_key": user_id}
        id: Any = self.client.xadd(self.dead, {**own, "u": str(user_id), **fields})  # type: ignore[dict-item]
        return str(id.decode())

    @property
    def ids(self) -> list[str]:
        return [id.decode() for id, _ in self.client.xrange(self.dead)]

    @property
    def replayed(self) -> list[str]:
        return sorted(id.decode() for id in self.client.hkeys(self.keys.parked_entries(STREAM, GROUP)))

    def form(self, do: str, *ids: str, **more: str) -> dict[str, Any]:
        return {"stream": self.stream, "group": GROUP, "do": do, "id": list(ids), **more}


@pytest.fixture
def letters(redis_client: redis.Redis, keys: Keys) -> Iterator[Letters]:
    yield Letters(redis_client, keys)
    for key in redis_client.scan_iter(match=f"*{keys.prefix}*"):
        redis_client.delete(key)


def hidden_fields(text: str) -> dict[str, Any]:
    """The hidden fields of the form on the confirmation page, and its button."""
    found: dict[str, Any] = {"id": re.findall(r'name="id" value="([^"]+)"', text)}
    for name in ("stream", "group", "q", "until", "confirmed"):
        found[name] = html.unescape(re.search(rf'name="{name}" value="([^"]*)"', text)[1])  # type: ignore[index]
    found["do"] = re.search(r'name="do" value="([^"]+)"', text)[1]  # type: ignore[index]
    return found


def do(client: Client, form: dict[str, Any]) -> str:
    """Ask, confirm, and return what the page then says."""
    asked = client.post(URL, form)
    assert asked.status_code == 200
    return client.post(URL, hidden_fields(asked.content.decode()), follow=True).content.decode()


def test_the_state_of_the_group_is_shown_beside_its_letters(admin_client: Client, letters: Letters) -> None:
    """The same figures as those of `stream_status`."""
    letters.bury(1, "1-0")
    letters.client.hset(letters.keys.parked_entries(STREAM, GROUP), "60000-0", "as a worker writes it")
    letters.client.set(GroupKeys(letters.stream, GROUP).worker_lease("here"), "token", px=60_000)
    letters.client.xgroup_createconsumer(letters.stream, GROUP, "here")
    shown = admin_client.get(URL, {"stream": letters.stream, "group": GROUP}).content.decode()
    assert re.search(
        r"lag 0, pending 0, delayed 1, stuck keys 0, oldest unfinished entry \d+ d, workers alive 1\.", shown
    )


def test_a_dead_letter_is_shown_with_all_that_is_known(admin_client: Client, alice: User, letters: Letters) -> None:
    """User, reason, attempts, last error and fields: as text, without secrets, and of bounded length."""
    envelope = '{"title": "<b>Hi</b>", "data": {"reset_token": ["hunter2"], "n": 1}}'
    error = "POST https://user:hunter2@hooks.example/hunter2?x=hunter2 said <i>no</i>, Authorization: Bearer hunter2"
    letters.bury(
        alice.pk, "5-1", error, e=envelope, password="hunter2", raw=b"\xff\x00" + b"x" * 5000, w="wolf://hunter2"
    )
    letters.bury("poison", "6-1", f"token='hunter2' {'y' * 3000}", **{f"f{number}": "v" for number in range(30)})
    text = page(admin_client, URL)
    for shown in ("alice", "failed in every attempt", "hooks.example/…", "5-1", "11 more"):
        assert shown in text
    assert "&lt;i&gt;no&lt;/i&gt;" in text
    assert "&lt;b&gt;Hi&lt;/b&gt;" in text
    assert "(5,002 characters)" in text
    assert "hunter2" not in text
    assert "y" * 2001 not in text
    assert text.index("poison") < text.index("alice"), "the newest comes first"


def test_a_letter_with_an_id_beyond_the_calendar_is_shown_and_purged(admin_client: Client, letters: Letters) -> None:
    """Another program wrote it. It counts as new, and later letters have such ids too."""
    letters.client.xadd(letters.dead, {"_id": "5-1", "_error": "made up"}, id="300000000000000-0")
    letters.bury("later", "6-1")
    letters.client.xadd(letters.dead, {"_id": "7-1", "_error": "the last"}, id=f"{2**64 - 1}-{2**64 - 1}")
    text = page(admin_client, URL)
    assert text.index("the last") < text.index("later") < text.index("made up")
    assert do(admin_client, letters.form("purge selected", *letters.ids)).count("made up") == 0
    assert letters.ids == []


def test_letters_come_in_pages_and_by_user(
    admin_client: Client, alice: User, bob: User, letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest come first. A search continues where it stopped."""
    monkeypatch.setattr(dead_letters, "PAGE_SIZE", 3)
    every = [letters.bury(user.pk, f"{number}-1") for number, user in enumerate((alice, bob) * 4)]
    seen, url = [], URL
    for _ in range(3):
        text = page(admin_client, url)
        seen += re.findall(r'name="id" value="([^"]+)"', text)
        older = re.search(r'href="([^"]+)" rel="next"', text)
        url = html.unescape(older[1]).replace("?", f"{URL}?", 1) if older and older[1].startswith("?") else url
        url = html.unescape(older[1]) if older and older[1].startswith("/") else url
    assert seen == list(reversed(every))
    assert older is None
    for word in ("bob", str(bob.pk)):
        assert re.findall(r'name="id" value="([^"]+)"', page(admin_client, f"{URL}?q={word}")) == every[7:2:-2]
    assert "No dead letter of “carol” was found" in page(admin_client, f"{URL}?q=carol")
    monkeypatch.setattr(dead_letters, "TURNS_LIMIT", 1)
    text = page(admin_client, f"{URL}?q=carol")
    assert "among those searched" in text
    assert 'rel="next"' in text


def test_selected_letters_are_replayed_after_a_confirmation(
    admin_client: Client, alice: User, letters: Letters
) -> None:
    """Nothing changes before the confirmation. Django's admin log has who did it, and the letters."""
    one, two, three = (letters.bury(alice.pk, f"{number}-1") for number in (1, 2, 3))
    asked = admin_client.post(URL, letters.form("replay selected", one, three)).content.decode()
    assert "Replay 2 dead letters" in asked
    assert letters.ids == [one, two, three]
    assert LogEntry.objects.count() == 0
    said = admin_client.post(URL, hidden_fields(asked), follow=True).content.decode()
    assert "Replayed 2 dead letters." in said
    assert letters.ids == [two]
    assert letters.replayed == ["1-1", "3-1"]
    entry = LogEntry.objects.get()
    assert (entry.user.username, entry.object_repr) == ("admin", f"dead letters of {letters.stream}, bot")
    assert entry.change_message == f"Replayed 2 dead letters chosen one by one: {one}, {three}."
    assert "Recent actions" in page(admin_client, "/admin/") or entry.is_change()


def test_all_letters_of_a_user_are_purged_but_not_later_ones(
    admin_client: Client, alice: User, bob: User, letters: Letters
) -> None:
    """Letters that the confirmation did not count are not touched. The log entry has at most 20 ids."""
    for number in range(30):
        letters.bury(alice.pk, f"{number}-1")
    kept = letters.bury(bob.pk, "50-1")
    asked = admin_client.post(URL, letters.form("purge all", q="alice")).content.decode()
    assert "Purge 30 dead letters" in asked
    later = letters.bury(alice.pk, "60-1")
    assert "Purged 30 dead letters." in admin_client.post(URL, hidden_fields(asked), follow=True).content.decode()
    assert letters.ids == [kept, later]
    entry = LogEntry.objects.get()
    assert entry.is_deletion()
    assert entry.change_message.startswith("Purged 30 dead letters of “alice”: ")
    assert entry.change_message.endswith(" and others.")
    assert entry.change_message.count(", ") == 19


def test_letters_that_another_user_replayed_no_longer_exist(
    admin_client: Client, alice: User, letters: Letters
) -> None:
    """Before the confirmation or after it: nothing is done twice."""
    one = letters.bury(alice.pk, "1-1")
    asked = admin_client.post(URL, letters.form("replay selected", one)).content.decode()
    assert "Replayed 1 dead letter." in do(admin_client, letters.form("replay all"))
    said = admin_client.post(URL, hidden_fields(asked), follow=True).content.decode()
    assert "Replayed 0 dead letters." in said
    said = admin_client.post(URL, letters.form("replay selected", one), follow=True).content.decode()
    assert "these dead letters no longer exist" in said
    assert letters.replayed == ["1-1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": []}, "select dead letters first"),
        ({"id": ["*", "1-1 COUNT 5"]}, "select dead letters first"),
        ({"do": "drop all"}, "Nothing was done"),
        ({"do": "purge everything"}, "Nothing was done"),
        ({"stream": "another"}, "Nothing was done"),
        ({"group": "another"}, "Nothing was done"),
        ({"do": "purge all", "confirmed": "yes"}, "the confirmation is incomplete"),
    ],
)
def test_a_form_that_the_page_did_not_make_does_nothing(
    admin_client: Client, alice: User, letters: Letters, change: dict[str, Any], said: str
) -> None:
    """It needs an existing group, valid ids, and the confirmed count."""
    one = letters.bury(alice.pk, "1-1")
    form = letters.form("purge selected", one) | change
    assert said in html.unescape(admin_client.post(URL, form, follow=True).content.decode())
    assert letters.ids == [one]
    assert not LogEntry.objects.exists()


def test_each_action_needs_its_own_permission(alice: User, letters: Letters) -> None:
    """Viewing, replaying and purging. Only permitted buttons are shown. A GET does nothing."""
    one = letters.bury(alice.pk, "1-1")
    assert make_staff("view_delivery", "replay_dead_letters").get(URL).status_code == 403
    assert Client().get(URL).status_code == 302
    viewer = make_staff("view_dead_letters")
    assert '<button class="sb-button"' not in page(viewer, URL)
    replayer = make_staff("view_dead_letters", "replay_dead_letters")
    assert "Replay selected" in page(replayer, URL)
    assert "Purge selected" not in page(replayer, URL)
    confirmed = letters.form("purge selected", one, confirmed="yes")
    for client in (viewer, replayer):
        assert client.post(URL, confirmed).status_code == 403
    assert page(make_staff("view_dead_letters", "purge_dead_letters"), f"{URL}?do=purge+all&confirmed=yes&id={one}")
    forger = Client(enforce_csrf_checks=True)
    forger.force_login(User.objects.create_superuser("forged"))
    assert forger.post(URL, confirmed).status_code == 403
    assert letters.ids == [one]


def test_with_redis_away_the_page_says_so(signalbox: Any, admin_client: Client) -> None:
    """For viewing and for actions. Nothing is logged that was not done."""
    with RedisServer() as server:
        signalbox.REALTIME = {**signalbox.REALTIME, "REDIS_URL": server.url}
        server.kill()
        shown = page(admin_client, URL)
        acted = admin_client.post(URL, {"stream": STREAM, "group": GROUP, "do": "purge all", "confirmed": "yes"})
        conf.sync_redis().close()
    assert "Redis is unavailable." in shown
    assert "Redis is unavailable." in acted.content.decode()
    assert not LogEntry.objects.exists()


def test_an_error_in_the_middle_of_an_action_is_shown_and_logged(
    admin_client: Client, alice: User, letters: Letters
) -> None:
    """The log entry says how many letters were done."""
    letters.bury(alice.pk, "1-1")
    letters.client.set(letters.keys.backlog(STREAM, GROUP, str(alice.pk)), "of another program")
    said = do(admin_client, letters.form("replay all"))
    assert "Replayed 0 dead letters. Redis then failed (ResponseError): there may be more." in said
    entry = LogEntry.objects.get()
    assert entry.change_message.startswith("Replayed 0 dead letters of the whole group: ")
    assert "Redis then failed (ResponseError)" in entry.change_message


def test_the_page_works_before_the_first_worker(admin_client: Client) -> None:
    """A new site is not an error."""
    assert "no worker has read a stream yet" in page(admin_client, URL)
