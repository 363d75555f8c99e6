"""A page under the same namespace as the default one of ours."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

__all__ = ["show"]


def show(request: HttpRequest) -> HttpResponse:
    return HttpResponse("the neighbour's")


app_name = "notifications"
urlpatterns = [path("", show, name="inbox")]
