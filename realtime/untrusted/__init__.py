"""Handling of untrusted input: text that is safe to print, rate-limited log lines, and rate limits."""
