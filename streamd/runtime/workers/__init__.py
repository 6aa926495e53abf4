"""Shares one daemon's work among processes: rings of messages, shared arrays, and both ends of their protocol."""
