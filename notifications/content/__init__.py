"""What a notification says and to whom: its limits, its form on the stream, recipients, times, links."""
