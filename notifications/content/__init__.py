"""The content of a notification, its recipients and times, and its form on the stream."""
