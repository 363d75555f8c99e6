"""The sockets of this process by topic, and one write a socket for all publications of a moment."""
