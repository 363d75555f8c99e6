"""Background tasks for tests with real worker processes, and programs that enqueue them."""
