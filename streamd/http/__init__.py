"""HTTP, WebSocket and server-sent events: bytes to calls and results to bytes. Never imports `device`."""
