"""The demo shop: its goods, its orders, and who is told of them."""

import importlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.apps import apps
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from notifications.exceptions import InvalidNotification
from notifications.models import Event, Notification
from project.demo.models import Order, Product
from project.demo.tasks import make_receipt
from realtime.tasks.django_api import TaskResultStatus, task_backends
from tests.support.domain import make_users

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _goods() -> None:
    """Those of the migration; a test that emptied all tables may have run before."""
    if not Product.objects.exists():
        migration = importlib.import_module("project.demo.migrations.0002_products")
        with connection.schema_editor() as editor:
            migration.add_goods(apps, editor)


@pytest.fixture
def alice() -> User:
    return make_users(1, prefix="alice")[0]


@pytest.fixture
def browser(alice: User) -> Client:
    """Signed in as alice."""
    client = Client()
    client.force_login(alice)
    return client


@pytest.fixture
def order(alice: User) -> Order:
    """Placed by alice; nobody has been told of it."""
    product = Product.objects.earliest("id")
    return Order.objects.create(customer=alice, product=product, price=product.price)


def told(user: User) -> list[str]:
    """The kinds of what the user was told, oldest first."""
    return list(Notification.objects.filter(recipient=user).order_by("id").values_list("event__kind", flat=True))


class TestShop:
    def test_everybody_may_look(self) -> None:
        """Six goods; to order, a visitor is asked to sign in."""
        page = Client().get("/").content.decode()
        assert page.count('class="good"') == 6
        assert page.count("Sign in to order") == 6
        assert "data-place-order" not in page

    def test_every_good_has_its_drawing(self, settings: Any) -> None:
        """By the same name in goods.svg and in the style sheet."""
        static = Path(settings.BASE_DIR) / "project" / "demo" / "static" / "demo"
        drawn = re.findall(r'<symbol id="(\w+)"', (static / "goods.svg").read_text())
        styled = re.findall(r'\[data-drawing="(\w+)"\] \.good__drawing', (static / "pages.css").read_text())
        assert sorted(drawn) == sorted(styled) == sorted(Product.objects.values_list("drawing", flat=True))


class TestPlacingAnOrder:
    def test_the_customer_is_told_and_led_to_the_order(self, alice: User, browser: Client) -> None:
        """One order, one event, one notification that says which order."""
        product = Product.objects.latest("id")
        response = browser.post(f"/orders/place/{product.pk}/")
        order = Order.objects.get()
        assert (order.customer, order.product, order.price, order.status) == (alice, product, product.price, "placed")
        assert response.headers["Location"] == f"/orders/#order-{order.pk}"
        event = Event.objects.get()
        assert (event.kind, event.url) == ("order.placed", f"/orders/#order-{order.pk}")
        assert event.data == {"order": order.pk, "status": "placed", "label": "Placed"}
        assert product.name in event.message
        assert told(alice) == ["order.placed"]

    def test_a_script_gets_the_order_instead(self, browser: Client) -> None:
        """Created, and where it is."""
        product = Product.objects.earliest("id")
        response = browser.post(f"/orders/place/{product.pk}/", headers={"accept": "application/json"})
        order = Order.objects.get()
        answer = response.json()
        assert uuid.UUID(answer.pop("next_key")).version == 4
        assert (response.status_code, answer) == (201, {"order": order.pk, "url": f"/orders/#order-{order.pk}"})

    @pytest.mark.parametrize(("accept", "statuses"), [("text/html", [302, 302]), ("application/json", [201, 200])])
    def test_a_form_that_is_sent_twice_places_one_order(
        self, alice: User, browser: Client, accept: str, statuses: list[int]
    ) -> None:
        """The answer to the first may have been lost; the second gives the same order, and notifies nobody again."""
        page = browser.get("/").content.decode()
        places = re.findall(r'action="(/orders/place/\d+/)".*?name="key" value="([^"]+)"', page)
        assert len({key for _, key in places}) == 6
        address, key = places[0]
        answers = [browser.post(address, {"key": key}, headers={"accept": accept}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == statuses
        assert answers[0].headers.get("Location") == answers[1].headers.get("Location")
        assert Order.objects.count() == 1
        assert told(alice) == ["order.placed"]
        browser.post(address, {"key": places[1][1]})
        bob = Client()
        bob.force_login(make_users(1, prefix="bob")[0])
        bob.post(address, {"key": key})
        assert Order.objects.count() == 3

    def test_what_is_no_key_is_refused(self, browser: Client) -> None:
        """With a word on what it must be."""
        address = f"/orders/place/{Product.objects.earliest('id').pk}/"
        assert browser.post(address, {"key": "once"}).status_code == 400
        assert not Order.objects.exists()

    def test_no_order_without_its_notification(self, browser: Client) -> None:
        """If the customer cannot be told, the order is not kept either."""
        product = Product.objects.create(name="ball\x07point", price=1, drawing="lamp")
        with pytest.raises(InvalidNotification):
            browser.post(f"/orders/place/{product.pk}/")
        assert not Order.objects.exists()
        assert not Event.objects.exists()

    def test_it_needs_a_customer_a_product_and_a_post(self, browser: Client) -> None:
        """Nothing else places an order."""
        product = Product.objects.earliest("id")
        assert Client().post(f"/orders/place/{product.pk}/").headers["Location"].startswith("/login/")
        assert browser.post("/orders/place/999999/").status_code == 404
        assert browser.get(f"/orders/place/{product.pk}/").status_code == 405
        assert not Order.objects.exists()


class TestChangingAnOrder:
    def test_each_status_is_told_to_the_customer_alone(self, alice: User, order: Order) -> None:
        """In order, once each."""
        make_users(1, prefix="bob")
        for status in ("packed", "on_its_way", "delivered", "cancelled"):
            order.status = status
            order.save()
        assert told(alice) == ["order.packed", "order.on_its_way", "order.delivered", "order.cancelled"]
        assert Notification.objects.count() == 4
        event = Event.objects.latest("id")
        assert event.data == {"order": order.pk, "status": "cancelled", "label": "Cancelled"}
        assert event.url == f"/orders/#order-{order.pk}"

    def test_a_save_that_leaves_the_status_tells_nobody(self, alice: User, order: Order) -> None:
        """Whatever else it changes; also when the object in hand is older than the database."""
        order.price += 1
        order.save()
        order.status = "packed"
        order.save(update_fields=["price"])
        assert told(alice) == []
        Order.objects.filter(pk=order.pk).update(status="packed")
        order.save()
        assert told(alice) == []

    def test_the_admin_changes_it_in_the_list(self, admin_client: Client, alice: User, order: Order) -> None:
        """As the demo invites to."""
        form = {
            "form-TOTAL_FORMS": 1,
            "form-INITIAL_FORMS": 1,
            "form-0-id": order.pk,
            "form-0-status": "on_its_way",
            "_save": "Save",
        }
        assert admin_client.post("/admin/demo/order/", form).status_code == 302
        assert told(alice) == ["order.on_its_way"]
        assert "on its way" in Event.objects.get().message

    def test_the_admin_changes_it_on_its_own_page(self, admin_client: Client, alice: User, order: Order) -> None:
        """And nothing is told when the same form is saved again."""
        form = {"customer": alice.pk, "product": order.product_id, "price": "3.00", "status": "packed"}
        for _ in range(2):
            assert admin_client.post(f"/admin/demo/order/{order.pk}/change/", form).status_code == 302
        assert told(alice) == ["order.packed"]


@pytest.fixture
def tasks(signalbox: Any, redis_client: redis.Redis, key_prefix: str) -> Iterator[Any]:
    """The tasks of the test, by the pattern of their keys; no worker runs."""

    def ids() -> list[str]:
        return [
            key.decode().rpartition(":")[2] for key in redis_client.scan_iter(f"*{key_prefix}tasks:default}}:task:*")
        ]

    yield ids
    for key in redis_client.scan_iter(f"*{key_prefix}tasks:*"):
        redis_client.delete(key)


class TestReceipt:
    def test_a_task_waits_for_a_worker_when_the_order_is_committed(
        self, browser: Client, tasks: Any, django_capture_on_commit_callbacks: Any
    ) -> None:
        """Not before; and only one, although the customer asks for the receipt meanwhile."""
        product = Product.objects.earliest("id")
        with django_capture_on_commit_callbacks(execute=True):
            browser.post(f"/orders/place/{product.pk}/")
            assert tasks() == []
        order = Order.objects.get()
        (id,) = tasks()
        result = task_backends["default"].get_result(id)
        assert (result.task.func, result.args, result.status) == (make_receipt.func, [order.pk], TaskResultStatus.READY)
        answer = browser.get(f"/orders/{order.pk}/receipt/")
        assert (answer.status_code, tasks()) == (202, [id])
        assert "Your receipt is being made" in answer.content.decode()

    def test_the_task_makes_the_receipt_and_notifies_once(self, alice: User, browser: Client, order: Order) -> None:
        """However often it runs. The notification leads to the receipt, and so does the page of orders."""
        Order.objects.filter(pk=order.pk).update(price="12.00")
        address = f"/orders/{order.pk}/receipt/"
        assert "data-receipt" not in browser.get("/orders/").content.decode()
        assert [make_receipt.func(order.pk) for _ in range(2)] == [address, address]
        assert told(alice) == ["receipt.ready"]
        assert Event.objects.get().url == address
        answer = browser.get(address)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        lines = dict(re.findall(r"^(.+?) {2,}(.+)$", answer.content.decode(), re.MULTILINE))
        assert lines["Order"] == str(order.pk)
        assert lines["Customer"] == alice.username
        assert (lines[order.product.name], lines["VAT 20 %"], lines["Total"]) == ("10.00 €", "2.00 €", "12.00 €")
        assert f'href="{address}" data-receipt' in browser.get("/orders/").content.decode()

    def test_nobody_else_sees_it(self, order: Order) -> None:
        """Another customer gets 404, a stranger the login page."""
        make_receipt.func(order.pk)
        address = f"/orders/{order.pk}/receipt/"
        bob = Client()
        bob.force_login(make_users(1, prefix="bob")[0])
        assert bob.get(address).status_code == 404
        assert Client().get(address).headers["Location"] == f"/login/?next={address}"

    def test_without_redis_the_order_is_placed_and_the_receipt_can_be_asked_for(
        self, browser: Client, caplog: pytest.LogCaptureFixture, django_capture_on_commit_callbacks: Any
    ) -> None:
        """The log has one line."""
        with django_capture_on_commit_callbacks() as callbacks:
            answer = browser.post(f"/orders/place/{Product.objects.earliest('id').pk}/")
        order = Order.objects.get()
        (ask,) = [callback for callback in callbacks if "place_order" in getattr(callback, "__qualname__", "")]
        ask()
        assert answer.status_code == 302
        assert browser.get(f"/orders/{order.pk}/receipt/").status_code == 202
        lines = [record.message for record in caplog.records if record.name == "project.demo.tasks"]
        assert [line.partition(":")[0] for line in lines] == [f"the receipt of order {order.pk} was not requested"] * 2


class TestOrdersPage:
    def test_it_shows_the_way_of_each_of_ones_own_orders(self, alice: User, browser: Client, order: Order) -> None:
        """With the present stop marked; other customers' orders are not there."""
        bob = make_users(1, prefix="bob")[0]
        other = Order.objects.create(customer=bob, product=order.product, price=1)
        Order.objects.filter(pk=order.pk).update(status="packed")
        page = browser.get("/orders/").content.decode()
        assert f'data-order="{order.pk}" data-status="packed"' in page
        assert '<li data-stop="packed" aria-current="step">Packed</li>' in page
        assert page.count('aria-current="step"') == 1
        assert f'data-order="{other.pk}"' not in page

    def test_a_cancelled_order_is_at_no_stop(self, browser: Client, order: Order) -> None:
        """It says that it is cancelled."""
        Order.objects.filter(pk=order.pk).update(status="cancelled")
        page = browser.get("/orders/").content.decode()
        assert 'aria-current="step"' not in page
        assert ">Cancelled<" in page

    def test_it_costs_the_same_queries_for_one_as_for_many(self, alice: User, browser: Client, order: Order) -> None:
        """Session, user, orders with their products, and the bell."""
        for _ in range(2):
            with CaptureQueriesContext(connection) as queries:
                browser.get("/orders/")
            assert len(queries) == 4
            Order.objects.bulk_create(Order(customer=alice, product=order.product, price=1) for _ in range(9))

    def test_a_stranger_is_sent_to_the_login_page_and_back(self) -> None:
        """The login page knows where they wanted to go."""
        assert Client().get("/orders/").headers["Location"] == "/login/?next=/orders/"


class TestLogin:
    def test_a_customer_logs_in_and_out(self, alice: User) -> None:
        """Back to the page that asked for it; out by POST only."""
        alice.set_password("secret")
        alice.save()
        client = Client()
        fields = {"username": alice.username, "password": "secret", "next": "/orders/"}
        assert client.post("/login/", fields).headers["Location"] == "/orders/"
        assert client.get("/logout/").status_code == 405
        assert client.post("/logout/").headers["Location"] == "/"
        assert "_auth_user_id" not in client.session

    def test_a_wrong_password_is_said_without_saying_what_is_wrong(self, alice: User) -> None:
        """The name stays in the form."""
        page = Client().post("/login/", {"username": alice.username, "password": "x"}).content.decode()
        assert 'role="alert"' in page
        assert f'value="{alice.username}"' in page

    @pytest.mark.parametrize("debug", [True, False])
    def test_demo_users_are_offered_in_development_only(self, settings: Any, debug: bool) -> None:
        """Their passwords are known to everybody."""
        settings.DEBUG = debug
        page = Client().get("/login/").content.decode()
        assert ("data-fill-user" in page) is debug
        assert ("<kbd>demo</kbd>" in page) is debug
