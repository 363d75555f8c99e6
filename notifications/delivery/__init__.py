"""From an entry of the stream to a provider: plan, claim, prepare, send, record."""
