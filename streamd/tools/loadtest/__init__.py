"""The load test: a client that sends a fleet to a daemon, reads its forecasts and accounts for each of them.

It knows the daemon only by the wire contract and imports nothing of the daemon's packages, so it cannot share the
daemon's mistakes: it computes by itself which rows are due, with which context, and which are lost.
"""
