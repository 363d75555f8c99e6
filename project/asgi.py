"""The site as an ASGI application: HTTP by Django, WebSockets by `realtime`, on any ASGI server."""

import os

from realtime.setup import asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = asgi_application()
