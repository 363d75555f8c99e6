"""What log records cost: the handlers that send them to Redis, and the workers that write them into files."""
