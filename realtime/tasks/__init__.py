"""
Background tasks: a backend of `django.tasks` on Redis Streams.

Owns the backend, its worker and its results, and the conformance suite for any backend. Does not own the stream worker
engine (streams) nor the tasks of a project.
"""
