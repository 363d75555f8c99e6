"""An app with tasks for tests of worker processes; two of the tasks are periodic."""
