"""
A small superhero combat simulator, whose log records are the input of a pipeline.

Owns the rules (combat), the state in Redis (store) and the log records (play). The files that come out of them are made
by `project/demo/sinks.py`.
"""
