"""What all code that uses the database shares: the clock, transactions, the order of locks, paging, threads, errors."""
