"""
The admin of realtime: an action that ends the connections of users, and the page "Log pipeline".

Owns the registration of the page. Does not own the page (log_pipeline) nor the action (users).
"""

from django.contrib import admin

from realtime.admin.log_pipeline import LogPipelineAdmin
from realtime.admin.users import disconnect_users
from realtime.models import LogPipeline

__all__ = ["LogPipelineAdmin", "disconnect_users"]

admin.site.register(LogPipeline, LogPipelineAdmin)
