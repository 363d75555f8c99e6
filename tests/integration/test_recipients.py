"""Recipients: users, ids, a mix of both, querysets; and what is refused."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.utils.functional import SimpleLazyObject

from notifications.content.recipients import find_recipients
from notifications.exceptions import InvalidRecipient, UnknownRecipients
from notifications.models import Event
from tests.support.domain import make_users

pytestmark = pytest.mark.django_db


class Employee(User):
    """A proxy model of users."""

    class Meta:
        proxy = True
        app_label = "auth"


def _find(recipients: Any) -> list[Any]:
    return find_recipients(recipients, using="default", limit=100)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda a, b: a, "a"),
        (lambda a, b: a.pk, "a"),
        (lambda a, b: str(a.pk), "a"),
        (lambda a, b: SimpleLazyObject(lambda: a), "a"),
        (lambda a, b: Employee.objects.get(pk=a.pk), "a"),
        (lambda a, b: [b, a], "ba"),
        (lambda a, b: (b.pk, a.pk), "ba"),
        (lambda a, b: [b, a.pk, str(b.pk), a], "ba"),
        (lambda a, b: {a.pk}, "a"),
        (lambda a, b: [User(pk=str(a.pk)), a, User(pk=str(b.pk))], "ab"),
        (lambda a, b: (user for user in (a, b)), "ab"),
        (lambda a, b: {a.pk: "x", b.pk: "y"}.keys(), "ab"),
        (lambda a, b: range(a.pk, a.pk + 1), "a"),
        (lambda a, b: [], ""),
        (lambda a, b: User.objects.order_by("-id"), "ba"),
        (lambda a, b: User.objects.order_by("id")[:1], "a"),
        (lambda a, b: User.objects.none(), ""),
        (lambda a, b: User.objects.filter(pk=a.pk).union(User.objects.filter(pk=b.pk)).order_by("id"), "ab"),
        (lambda a, b: Employee.objects.order_by("id"), "ab"),
        (lambda a, b: User.objects, "either"),
        (lambda a, b: Group.objects.get().user_set, "b"),
        (lambda a, b: Group.objects.values_list("user", flat=True), "b"),
        (lambda a, b: User.objects.order_by("id").values_list("id", flat=True), "ab"),
        (lambda a, b: User.objects.order_by("id").only("username"), "ab"),
    ],
)
def test_recipients_may_be_given_in_many_ways(given: Callable[[User, User], Any], expected: str) -> None:
    """Duplicates are removed, and the order is kept. Without ORDER BY, a database may return rows in any order."""
    alice, bob = make_users(2)
    Group.objects.create(name="staff").user_set.add(bob)
    names = {alice.pk: "a", bob.pk: "b"}
    found = _find(given(alice, bob))
    letters = "".join(names[user_id] for user_id in found)
    assert letters in ("ab", "ba") if expected == "either" else letters == expected
    assert all(type(user_id) is int for user_id in found)


@pytest.mark.parametrize(
    "recipients",
    [
        None,
        True,
        False,
        1.0,
        b"1",
        "",
        "alice",
        "1.5",
        uuid.UUID(int=1),
        {1: "x"},
        object(),
        User(username="unsaved"),
        AnonymousUser(),
        SimpleLazyObject(AnonymousUser),
        [1, True],
        [None],
        [[1]],
        [1.5],
        User(pk="alice"),
        User,
        Group(pk=1),
        Event(pk=1),
    ],
)
def test_an_invalid_recipient_is_refused(recipients: Any) -> None:
    """The error shows the invalid value. True is not the user 1, and a text is one id, not a list of digits."""
    make_users()
    with pytest.raises(InvalidRecipient) as caught:
        _find(recipients)
    assert str(caught.value).startswith("recipient ")
    assert str(caught.value).endswith(": give users, their ids, or a queryset of users")


def test_users_of_another_model_in_a_queryset_are_refused() -> None:
    """A group is not a user, even if a user has the same id."""
    make_users()
    Group.objects.create(name="staff")
    with pytest.raises(InvalidRecipient):
        _find(Group.objects.all())


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ([0], "no user has the id 0: nobody was notified"),
        ([-1, 10**9], "no users have the ids -1, 1000000000: nobody was notified"),
        ([2**63, 10**40], f"no users have the ids {2**63}, {10**40}: nobody was notified"),
        (
            range(10**9, 10**9 + 9),
            "no users have the ids 1000000000, 1000000001, 1000000002, 1000000003, 1000000004 "
            "and 4 more: nobody was notified",
        ),
    ],
)
def test_unknown_ids_are_named(missing: Any, text: str) -> None:
    """The text of the error has the first few ids; its attribute has all of them."""
    (alice,) = make_users()
    with pytest.raises(UnknownRecipients) as caught:
        _find([alice, *missing])
    assert caught.value.missing_ids == tuple(missing)
    assert str(caught.value) == text


def test_a_deleted_user_is_unknown() -> None:
    """It is refused at once, not by an integrity error at commit."""
    alice, bob = make_users(2)
    User.objects.filter(pk=bob.pk).delete()
    with pytest.raises(UnknownRecipients) as caught:
        _find([alice, bob])
    assert caught.value.missing_ids == (bob.pk,)


def test_a_queryset_is_read_as_keys_in_one_query(django_assert_num_queries: Any) -> None:
    """No user object is created, whatever the queryset selects."""
    make_users(50)
    with django_assert_num_queries(1) as captured:
        assert len(_find(User.objects.all())) == 50
    assert "password" not in captured.captured_queries[0]["sql"]


def test_ids_are_looked_up_together(django_assert_num_queries: Any) -> None:
    """One query looks up all ids."""
    users = make_users(50)
    with django_assert_num_queries(1):
        assert len(_find(users)) == 50
