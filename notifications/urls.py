"""The URLs of the inbox and the bell; a project includes them under a path of its own."""

from django.urls import path

from notifications.inbox import views
from notifications.label import LABEL

app_name = LABEL
urlpatterns = [
    path("", views.show_inbox, name="inbox"),
    path("bell/", views.show_bell, name="bell"),
    path("seen/", views.mark_seen, name="seen"),
    path("read/", views.mark_read, name="read"),
    path("archive/", views.mark_archived, name="archive"),
]
