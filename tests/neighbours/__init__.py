"""Projects that have another app of the name, or another relation on users of the name."""
