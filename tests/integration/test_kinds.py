"""Kinds of notifications, their words, and who wants them."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.template import TemplateSyntaxError

from notifications import kinds, services
from notifications.exceptions import InvalidPreference
from notifications.kinds import Kind, find_kind, render
from notifications.models import Preference
from notifications.preferences import wanted_transports
from tests.support.domain import make_users
from tests.support.messages import envelope

CONSOLE = {"BACKEND": "notifications.transports.console.ConsoleTransport"}
WEBHOOK = {"BACKEND": "notifications.transports.webhook.WebhookTransport"}
SAID = envelope(kind="order.shipped", title="Order 7", message="From notify() <b>", data={"order": 7})


def language_of(user: User) -> str:
    """For NOTIFICATIONS["LANGUAGE_OF"]: the language is the user's last name."""
    return user.last_name


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kinds, "_kinds", {})
    yield


@pytest.fixture
def shipped() -> type[Kind]:
    class Shipped(Kind):
        key = "order.shipped"
        label = "Your order is on its way"
        transports = ("email", "push")
        required = frozenset({"email"})
        forbidden = frozenset({"chat"})

    return Shipped


@pytest.fixture
def four_transports(settings: Any) -> None:
    names = ("push", "email", "chat", "console")
    settings.NOTIFICATIONS = {"TRANSPORTS": dict.fromkeys(names, CONSOLE)}


@pytest.fixture
def write(settings: Any, tmp_path: Path) -> Any:
    """Writes a template of the kind order.shipped."""
    backend = "django.template.backends.django.DjangoTemplates"
    settings.TEMPLATES = [{"BACKEND": backend, "DIRS": [tmp_path]}]

    def write(name: str, text: str) -> None:
        path = tmp_path / "notifications" / "kinds" / "order.shipped" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


# Words ---------------------------------------------------------------------------------------------------------------


def test_without_templates_the_texts_are_those_of_notify(shipped: type[Kind]) -> None:
    """Also for an undeclared kind."""
    for key in ("order.shipped", "other"):
        texts = render(find_kind(key), "email", SAID, User())
        assert (texts.subject, texts.body, texts.html) == ("Order 7", "From notify() <b>", "")


def test_each_transport_may_have_its_own_texts(shipped: type[Kind], write: Any) -> None:
    """Otherwise the common template is used. HTML is escaped, plain text is not."""
    write("body.txt", "All: {{ notification.message }}\n")
    write("email.body.txt", "Email of {{ notification.data.order }} to {{ recipient.username }}: {{ kind.label }}")
    write("email.body.html", "<p>{{ notification.message }}</p>")
    write("email.subject.txt", "\nShipped:\n{{ notification.title }}\n")
    email = render(find_kind("order.shipped"), "email", SAID, User(username="zoë"))
    assert email.subject == "Shipped: Order 7"
    assert email.body == "Email of 7 to zoë: Your order is on its way"
    assert email.html == "<p>From notify() &lt;b&gt;</p>"
    push = render(find_kind("order.shipped"), "push", SAID, User())
    assert (push.subject, push.body, push.html) == ("Order 7", "All: From notify() <b>", "")


@pytest.mark.parametrize(
    ("language", "month"), [("de", "Januar"), ("fr", "janvier"), ("", "January"), ("xx", "January")]
)
def test_texts_are_in_the_recipients_language(
    shipped: type[Kind], write: Any, settings: Any, language: str, month: str
) -> None:
    """By LANGUAGE_OF; otherwise in LANGUAGE_CODE."""
    settings.NOTIFICATIONS = {"LANGUAGE_OF": f"{__name__}.language_of"}
    write("body.txt", '{{ notification.created_at|date:"F" }}')
    assert render(find_kind("order.shipped"), "email", SAID, User(last_name=language)).body == month


def test_a_broken_template_is_an_error(shipped: type[Kind], write: Any) -> None:
    """No other text is sent instead."""
    write("body.txt", "{% nonsense %}")
    with pytest.raises(TemplateSyntaxError):
        render(find_kind("order.shipped"), "email", SAID, User())


@pytest.mark.parametrize("wrong", ["", "..", "Order", "a/b", "x" * 65])
def test_an_invalid_key_is_refused_where_it_is_declared(wrong: str) -> None:
    """It is used as the name of a folder, and stored in rows."""
    with pytest.raises(ValueError, match="cannot be the key of a kind"):
        type("Wrong", (Kind,), {"key": wrong, "label": ""})


@pytest.mark.parametrize(
    ("name", "meant"),
    [("transprts", "transports"), ("require", "required"), ("urgent", "is_urgent"), ("fallbacks", "fallback")],
)
def test_a_misspelt_attribute_is_refused_where_it_is_declared(name: str, meant: str) -> None:
    """It would have no effect. Also in a base class. Other attributes, for templates, are allowed."""
    with pytest.raises(ValueError, match=f"the kind Wrong has an unknown attribute '{name}': did you mean '{meant}'"):
        type("Wrong", (Kind,), {name: ()})
    own = {"icon": "truck", "_require": 1, "transport_of": lambda self: 1, "labels": property(lambda self: 1)}
    assert issubclass(type("Base", (Kind,), own), Kind)


def test_two_kinds_never_share_a_key(shipped: type[Kind]) -> None:
    """No kind both requires and forbids a transport. A base class needs no key."""
    with pytest.raises(ValueError, match=r"two kinds have the key .*: Shipped and Again"):
        type("Again", (Kind,), {"key": "order.shipped", "label": ""})
    both = {"key": "x", "label": "", "required": frozenset({"email"}), "forbidden": frozenset({"email"})}
    with pytest.raises(ValueError, match="both requires and forbids email"):
        type("Both", (Kind,), both)
    base = type("Base", (Kind,), {"transports": ()})
    assert issubclass(type("Child", (base,), {"key": "child", "label": ""}), Kind)
    assert [kind.key for kind in kinds.all_kinds()] == ["order.shipped", "child"]


# Wishes --------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_choice_applies_within_what_the_kind_requires_and_forbids(
    shipped: type[Kind], four_transports: None, alice: User
) -> None:
    """Even if it was stored before the kind required or forbade the transport."""
    kind = find_kind("order.shipped")
    assert wanted_transports(alice.pk, kind) == ["push", "email"]
    services.set_preference(alice.pk, "order.shipped", "push", False)
    services.set_preference(alice.pk, "order.shipped", "console", True)
    assert wanted_transports(alice.pk, kind) == ["email", "console"]
    for name, is_wanted in (("email", False), ("chat", True)):
        Preference.objects.create(user=alice, kind="order.shipped", transport=name, is_wanted=is_wanted)
        with pytest.raises(InvalidPreference, match=r"order\.shipped is (always|never) sent by"):
            services.set_preference(alice.pk, "order.shipped", name, is_wanted)
    assert wanted_transports(alice.pk, kind) == ["email", "console"]
    services.set_preference(alice.pk, "order.shipped", "push", None)
    services.set_preference(alice.pk, "order.shipped", "console", None)
    assert wanted_transports(alice.pk, kind) == ["push", "email"]
    assert wanted_transports(alice.pk, find_kind("undeclared")) == ["console"]


@pytest.mark.django_db
def test_get_preferences_has_everything_for_a_page(shipped: type[Kind], four_transports: None, alice: User) -> None:
    """Each kind × transport, with the choice and whether it can be changed. Other users' choices do not count."""
    (bob,) = make_users(1)
    services.set_preference(bob.pk, "order.shipped", "push", False)
    services.set_preference(alice.pk, "order.shipped", "console", True)
    choices = {choice.transport: choice for choice in services.get_preferences(alice.pk)}
    assert {name: (choice.is_wanted, choice.is_fixed) for name, choice in choices.items()} == {
        "push": (True, False),
        "email": (True, True),
        "chat": (False, True),
        "console": (True, False),
    }
    assert (choices["push"].kind, choices["push"].kind_label) == ("order.shipped", "Your order is on its way")
    with pytest.raises(InvalidPreference, match="there is no transport 'fax'"):
        services.set_preference(alice.pk, "order.shipped", "fax", True)


@pytest.mark.django_db
def test_users_add_their_own_receivers(settings: Any, alice: User) -> None:
    """Each has a secret. Adding one again returns the same row. There may be ten."""
    settings.NOTIFICATIONS = {"TRANSPORTS": {"webhook": WEBHOOK, "console": CONSOLE}}
    first = services.add_destination(alice.pk, "webhook", "https://alice.example/hook")
    assert services.add_destination(alice.pk, "webhook", "https://alice.example/hook") == first
    assert first.secret.startswith("whsec_")
    for number in range(9):
        services.add_destination(alice.pk, "webhook", f"https://alice.example/{number}")
    for transport, address, said in (
        ("webhook", "https://alice.example/more", "there are 10 addresses for webhook already"),
        ("webhook", "file:///etc/passwd", "the address is not an http or https URL"),
        ("webhook", "https://x/" + "x" * 1000, "the address has 1010 characters, the limit is 1000"),
        ("console", "https://alice.example/", "not accepted: console does not use addresses that users add"),
        ("fax", "1", "there is no transport 'fax'"),
    ):
        with pytest.raises(InvalidPreference, match=said):
            services.add_destination(alice.pk, transport, address)


@pytest.mark.django_db
@pytest.mark.parametrize("nobody", [987_654_321, 2**70, "x", None, True])
def test_an_unknown_user_is_refused(settings: Any, nobody: Any) -> None:
    """At once, also with a database that checks foreign keys only at the commit."""
    settings.NOTIFICATIONS = {"TRANSPORTS": {"webhook": WEBHOOK, "console": CONSOLE}}
    browser = {"endpoint": "https://push.example/1", "keys": {"p256dh": "p", "auth": "a"}}
    for choose in (
        lambda: services.set_preference(nobody, "order.shipped", "console", False),
        lambda: services.set_quiet_hours(nobody, datetime.time(22), datetime.time(7), "UTC"),
        lambda: services.add_destination(nobody, "webhook", "https://alice.example/hook"),
        lambda: services.add_push_subscription(nobody, browser),
    ):
        with pytest.raises(InvalidPreference, match=f"there is no user with the id {nobody!r}"):
            choose()


@pytest.mark.django_db
def test_an_impossible_kind_is_refused(four_transports: None, alice: User) -> None:
    """An undeclared kind is accepted, as by notify()."""
    with pytest.raises(InvalidPreference, match="no kind can have the key 'Order Shipped'"):
        services.set_preference(alice.pk, "Order Shipped", "console", False)
    services.set_preference(alice.pk, "undeclared", "console", False)
    assert wanted_transports(alice.pk, find_kind("undeclared")) == []


# Checks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "id", "said"),
    [
        ({"TRANSPORTS": {"a": {"BACKEND": "nowhere.at.all"}}}, "E002", "No module named 'nowhere'"),
        ({"TRANSPORTS": {"a": {"BACKEND": "datetime.datetime"}}}, "E002", "is not a subclass of"),
        ({"TRANSPORTS": {"a": {**CONSOLE, "OPTIONS": {"volume": 11}}}}, "E002", "unexpected keyword argument 'volume'"),
        ({"TRANSPORTS": {"a": {**CONSOLE, "OPTIONS": {"timeout_seconds": 31}}}}, "E002", "at most half of"),
        ({"TRANSPORTS": {"a b": CONSOLE}}, "E002", "the name must be"),
        ({"TRANSPORTS": {"a": {**WEBHOOK, "OPTIONS": {"url": "ftp://x"}}}}, "E002", "url is not an http or https URL"),
        ({"TRANSPORTS": {"a": {**WEBHOOK, "OPTIONS": {"url": "https://x", "secret": "whsec_eA=="}}}}, "E002", "secret"),
        ({"SEND_MESSAGE": "nowhere.at_all"}, "E002", "SEND_MESSAGE cannot be imported: No module named 'nowhere'"),
        ({"TRANSPORTS": {"a": {"OPTIONS": {}}}}, "E001", "missing required field `BACKEND`"),
        ({"TRANSPORTS": {"a": {**CONSOLE, "OPTION": {}}}}, "E001", "unknown field `OPTION`"),
        ({"DEFAULT_TRANSPORTS": ["console", "fax"]}, "E003", "names fax, which"),
        ({"LANGUAGE_OF": "nowhere.at_all"}, "E004", "No module named 'nowhere'"),
    ],
)
def test_wrong_transports_are_reported_when_the_process_starts(
    settings: Any, value: dict[str, Any], id: str, said: str
) -> None:
    """With the transport and the setting."""
    assert run_checks(tags=["notifications"]) == []
    settings.NOTIFICATIONS = {"DEFAULT_TRANSPORTS": [], **value}
    (message,) = run_checks(tags=["notifications"])
    assert message.id == f"notifications.{id}"
    assert said in message.msg


def test_a_kind_with_an_unknown_transport_is_reported(shipped: type[Kind]) -> None:
    """With the names."""
    (message,) = run_checks(tags=["notifications"])
    assert message.id == "notifications.E003"
    assert message.msg.startswith("the kind 'order.shipped' names chat, email, push, which")
