"""One WebSocket connection from the handshake to its end: who may connect, what a client may ask, when it is closed."""
