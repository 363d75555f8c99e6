"""A private Valkey server for development, tests and CI, started by the first process that needs it."""
