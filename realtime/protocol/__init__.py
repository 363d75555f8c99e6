"""The WebSocket protocol `signalbox.v1`: its frames and its close codes."""
