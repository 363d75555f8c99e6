"""Channels as its documentation has it, on the users and sessions of this project: what others are compared with."""
