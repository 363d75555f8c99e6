"""Everything that uses Redis needs: clients, names, scripts, leases, and what to do while Redis is unavailable."""
