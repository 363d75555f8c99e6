"""Its own pages in the admin, which are Django's."""

from django.contrib import admin

from tests.neighbours.notifications.models import Event, Notification

admin.site.register([Event, Notification])
