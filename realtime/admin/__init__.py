"""
What the Django admin has of realtime connections and of the log pipeline.

Owns the registration. Does not own the action (users) nor the page (log_pipeline).
"""

from django.contrib import admin

from realtime.admin.log_pipeline import LogPipelineAdmin
from realtime.admin.users import disconnect_users
from realtime.models import LogPipeline

__all__ = ["LogPipelineAdmin", "disconnect_users"]

admin.site.register(LogPipeline, LogPipelineAdmin)
