"""One Redis pub/sub connection that any number of local subscribers share."""
