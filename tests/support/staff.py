"""People who work in the admin, and the pages that they open."""

from django.contrib.auth.models import Permission, User
from django.test import Client

__all__ = ["make_staff", "page"]


def make_staff(*permissions: str) -> Client:
    """A client of somebody who works here and has just these permissions, e.g. "view_event"."""
    user = User.objects.create_user(f"staff-{User.objects.count()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def page(client: Client, url: str) -> str:
    """The page at `url`, which must be there."""
    response = client.get(url)
    assert response.status_code == 200, f"{url}: {response.status_code}"
    return response.content.decode()
