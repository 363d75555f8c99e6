"""From an entry of the stream to a provider: planned, claimed, prepared, sent, recorded."""
