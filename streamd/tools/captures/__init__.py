"""Captured bodies of agents and dumps of Prometheus' TSDB: recognised, read, and made requests again.

It opens no connection; `mapping` maps what is read here, and `loadtest` posts it.
"""
