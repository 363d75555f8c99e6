"""Seen, read, archived, relayed: who may say so, and what it changes."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from notifications import services
from notifications.models import Notification
from tests.support.domain import make_users

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("signalbox")]


@pytest.fixture
def alice_and_bob() -> tuple[User, User]:
    """Two users with three notifications each."""
    alice, bob = make_users(2)
    for number in range(3):
        services.notify([alice, bob], f"message {number}")
    return alice, bob


def _ids(user: User) -> list[int]:
    return list(Notification.objects.filter(recipient=user).order_by("id").values_list("id", flat=True))


def _times(user: User, field: str) -> list[Any]:
    return list(Notification.objects.filter(recipient=user).order_by("id").values_list(field, flat=True))


@pytest.mark.parametrize(
    ("mark", "field"),
    [(services.mark_seen, "seen_at"), (services.mark_read, "read_at"), (services.mark_archived, "archived_at")],
)
def test_people_mark_only_their_own(
    mark: Callable[..., int], field: str, alice_and_bob: tuple[User, User], django_assert_num_queries: Any
) -> None:
    """One update; foreign, unknown and impossible ids are ignored; the second time nothing changes."""
    alice, bob = alice_and_bob
    first, second, third = _ids(alice)
    foreign = _ids(bob)
    with django_assert_num_queries(1):
        assert mark(alice.pk, [first, third, *foreign, 10**9, -1, 10**30]) == 2
    times = _times(alice, field)
    assert times[1] is None
    assert times[0] == times[2] is not None
    assert _times(bob, field) == [None] * 3
    assert mark(alice.pk, [first, third]) == 0
    assert mark(alice.pk, []) == 0
    assert _times(alice, field) == times
    assert mark(alice.pk, [second]) == 1


@pytest.mark.parametrize(("mark", "field"), [(services.mark_seen, "seen_at"), (services.mark_read, "read_at")])
def test_without_ids_the_whole_inbox_is_meant(
    mark: Callable[..., int], field: str, alice_and_bob: tuple[User, User]
) -> None:
    """What is archived stays as it was."""
    alice, bob = alice_and_bob
    services.mark_archived(alice.pk, _ids(alice)[:1])
    assert mark(alice.pk) == 2
    times = _times(alice, field)
    assert times[0] is None
    assert None not in times[1:]
    assert _times(bob, field) == [None] * 3


def test_what_is_read_is_seen(alice_and_bob: tuple[User, User]) -> None:
    """At the time of reading, unless it was seen before."""
    alice, _ = alice_and_bob
    services.mark_seen(alice.pk, _ids(alice)[:1])
    seen_at = _times(alice, "seen_at")[0]
    assert services.mark_read(alice.pk) == 3
    read_at = _times(alice, "read_at")
    assert _times(alice, "seen_at") == [seen_at, *read_at[1:]]
    assert seen_at < read_at[0]


def test_the_inbox_counts_what_is_left(alice_and_bob: tuple[User, User]) -> None:
    """Unseen, unread and archived, as the bell shows them."""
    alice, _ = alice_and_bob
    first, second, third = _ids(alice)
    services.mark_read(alice.pk, [first])
    services.mark_archived(alice.pk, [second])
    assert [n.pk for n in Notification.objects.inbox(alice.pk)] == [third, first]
    assert [n.pk for n in Notification.objects.unread(alice.pk)] == [third]
    assert [n.pk for n in Notification.objects.unseen(alice.pk)] == [third]


def test_the_relay_marks_a_batch_at_once(alice_and_bob: tuple[User, User], django_assert_num_queries: Any) -> None:
    """Whoever's they are; the first time counts."""
    alice, bob = alice_and_bob
    ids = [*_ids(alice), _ids(bob)[0]]
    with django_assert_num_queries(1):
        assert services.mark_relayed(ids) == set(ids)
    times = _times(alice, "relayed_at")
    assert services.mark_relayed(_ids(alice)) == set()
    assert _times(alice, "relayed_at") == times
    assert services.mark_relayed([]) == set()
