"""`streamd ingest`: pushes what an agent printed to a daemon, for agents that cannot send it themselves.

Reads standard input or a file, and reaches the daemon only over HTTP.
"""
