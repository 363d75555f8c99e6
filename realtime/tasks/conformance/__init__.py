"""
A pytest suite that any backend of `django.tasks` can run.

Each test is one rule of Django's documentation, or of what several backends add to it. The author of a backend derives
a class from `suite.BackendSuite` and says how its workers run; docs/how-to/test-a-task-backend.md shows it.

Owns the rules and how they are checked. Does not own a backend. `tasks` and `journal` are imported by workers too, and
need no pytest; all other modules do.
"""
