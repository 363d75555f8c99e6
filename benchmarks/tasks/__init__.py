"""Backends of background tasks that are compared: ours and other libraries', each with the same two tasks."""
