"""Live topics: what each filtered subscription sees of the newest publications of a topic or a family."""
