"""A Valkey server of the project's own, for development, tests and CI: started by the first process that needs it."""
