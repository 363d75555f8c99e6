"""What outsiders send, made harmless: text that is safe to print, log lines that nobody can flood, limits of rates."""
