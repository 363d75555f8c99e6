"""The demo's people: three with known passwords, and as many signed-in users as a load test wants; with DEBUG only."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import authenticate, get_user
from django.contrib.auth.models import User
from django.contrib.sessions.backends import cache, db, signed_cookies
from django.core.management import CommandError, call_command
from django.http import HttpRequest

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def debug(settings: Any) -> None:
    settings.DEBUG = True


def seed(count: int, cookies: Path, **options: Any) -> list[tuple[int, str]]:
    """Run the command and read its file: (user id, session key) by line."""
    call_command("seed_demo", users=count, cookies=cookies, **{"verbosity": 0, **options})
    lines = [line.split("\t") for line in cookies.read_text().splitlines()]
    return [(int(user_id), key) for user_id, key in lines]


def who_is(session: Any) -> Any:
    """The user as whom a request with this session is served."""
    request = HttpRequest()
    request.session = session
    return get_user(request)


def test_seeded_users_are_logged_in_and_in_order(tmp_path: Path) -> None:
    """Line n is user n with a session that is valid now; nobody of them can sign in with a password."""
    lines = seed(3, tmp_path / "cookies")
    users = list(User.objects.order_by("pk"))
    assert [user.username for user in users] == ["user1", "user2", "user3"]
    assert [user_id for user_id, _ in lines] == [user.pk for user in users]
    assert [who_is(db.SessionStore(key)) for _, key in lines] == users
    assert not any(user.has_usable_password() or user.is_staff for user in users)


def test_cookies_are_for_their_owner_only(tmp_path: Path) -> None:
    """The file has mode 600, also where one that others may read was there before."""
    cookies = tmp_path / "cookies"
    cookies.write_text("old")
    cookies.chmod(0o644)
    seed(1, cookies)
    assert cookies.stat().st_mode & 0o777 == 0o600


def test_seeding_again_keeps_the_users_and_makes_new_sessions(tmp_path: Path) -> None:
    """The second run adds whom it lacks; everybody's session is a new one."""
    first = seed(2, tmp_path / "cookies")
    second = seed(3, tmp_path / "cookies")
    assert User.objects.count() == 3
    assert [user_id for user_id, _ in second][:2] == [user_id for user_id, _ in first]
    assert not {key for _, key in first} & {key for _, key in second}


@pytest.mark.parametrize("backend", [cache, signed_cookies])
def test_sessions_are_of_the_backend_that_the_project_uses(backend: Any, tmp_path: Path, settings: Any) -> None:
    """A session in the cache or in the cookie itself is as good as one in the database."""
    settings.SESSION_ENGINE = backend.__name__
    lines = seed(2, tmp_path / "cookies")
    assert [who_is(backend.SessionStore(key)).username for _, key in lines] == ["user1", "user2"]


def test_many_users_are_shown_to_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More than one batch: a progress bar on stderr, and every user once."""
    stderr = StringIO()
    lines = seed(2_500, tmp_path / "cookies", verbosity=1, stderr=stderr)
    assert "Seeding 2500 users" in stderr.getvalue()
    assert len({user_id for user_id, _ in lines}) == len({key for _, key in lines}) == 2_500
    assert "2500 users are signed in" in capsys.readouterr().out


def test_failed_run_leaves_the_old_file(tmp_path: Path, settings: Any) -> None:
    """The file is written whole or not at all, and nothing is left beside it."""
    cookies = tmp_path / "cookies"
    cookies.write_text("old")
    settings.SESSION_ENGINE = "no_such_backend"
    with pytest.raises(ModuleNotFoundError):
        seed(1, cookies)
    assert cookies.read_text() == "old"
    assert list(tmp_path.iterdir()) == [cookies]


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    """No users at all, or a directory that is not there."""
    with pytest.raises(CommandError, match="--users is 0: it must be 1 or more"):
        seed(0, tmp_path / "cookies")
    with pytest.raises(CommandError, match="there is no directory"):
        seed(1, tmp_path / "missing" / "cookies")


def test_demo_users_are_made_once() -> None:
    """alice, bob and the superuser admin; a second run changes nobody, not even a password that was changed."""
    call_command("seed_demo_users", verbosity=0)
    assert authenticate(username="alice", password="demo") == User.objects.get(username="alice")
    assert authenticate(username="bob", password="demo") == User.objects.get(username="bob")
    admin = authenticate(username="admin", password="admin")
    assert isinstance(admin, User)
    assert admin.is_superuser and admin.is_staff
    alice = User.objects.get(username="alice")
    alice.set_password("her own")
    alice.save()
    User.objects.filter(username="bob").delete()
    call_command("seed_demo_users", verbosity=0)
    assert authenticate(username="alice", password="her own") == alice
    assert User.objects.count() == 3


def test_no_demo_people_without_debug(settings: Any, tmp_path: Path) -> None:
    """With DEBUG off both commands refuse, and nobody is made."""
    settings.DEBUG = False
    with pytest.raises(CommandError, match="with DEBUG on"):
        seed(1, tmp_path / "cookies")
    with pytest.raises(CommandError, match="with DEBUG on"):
        call_command("seed_demo_users")
    assert not User.objects.exists()
    assert not list(tmp_path.iterdir())
