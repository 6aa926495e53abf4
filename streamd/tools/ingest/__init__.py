"""`streamd ingest`: pushes what an agent printed to a daemon, for agents that cannot send it themselves.

Reads standard input or a file, and knows the daemon only by its HTTP routes.
"""
