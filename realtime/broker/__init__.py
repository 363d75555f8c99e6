"""Publications on topics: their form, publishing them, and the history that Redis keeps of a topic."""
