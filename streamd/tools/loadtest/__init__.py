"""The load replayer: a client that sends a fleet to a daemon, reads its forecasts and accounts for each.

It knows the daemon by its wire contract only and imports nothing else of streamd, so that it can't share
the daemon's mistakes: what it calls due, context or lost is its own reading of the contract.
"""
