"""The daemon's HTTP interface: requests, WebSockets and event streams over one `Service`.

Translates bytes to calls and results to bytes. Never imports `inference`, `repository` or `server`.
"""
