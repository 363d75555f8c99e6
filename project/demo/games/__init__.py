"""
A small simulator of superhero fights. Its log records are the input of the demo's sinks.

Owns the rules (combat), the state in Redis (store) and the log records (play). Does not own the files that the sinks
write (project.demo.sinks).
"""
