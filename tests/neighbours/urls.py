"""The neighbour's pages, ours, and the admin."""

from django.apps import apps
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("told/", include("notifications.urls"))]
if apps.is_installed("tests.neighbours.notifications"):
    urlpatterns.append(path("neighbour/", include("tests.neighbours.notifications.urls")))
