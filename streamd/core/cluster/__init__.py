"""Policies of several daemons that share a fleet: shards, members, leases, the chain of forecasts. Pure."""
