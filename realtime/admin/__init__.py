"""
The admin of realtime: an action that ends the connections of users, and the pages "Log pipeline" and "Tasks".

Owns the registration of the pages. Does not own the pages (log_pipeline, tasks) nor the action (users).
"""

import contextlib

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured

from realtime.admin.log_pipeline import LogPipelineAdmin
from realtime.admin.users import disconnect_users
from realtime.models import LogPipeline, Task

__all__ = ["LogPipelineAdmin", "disconnect_users"]

admin.site.register(LogPipeline, LogPipelineAdmin)
# Without the Tasks framework, of Django or of its backport, there are no tasks.
with contextlib.suppress(ImproperlyConfigured):
    from realtime.admin.tasks import TaskAdmin

    admin.site.register(Task, TaskAdmin)
