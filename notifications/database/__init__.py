"""Shared by all code that uses the database: the clock, transactions, the order of locks, paging, threads, errors."""
