"""An event's way to the stream: created, scheduled, published, pruned."""
