"""Generates servers with series that no recorded fleet has; `servers.generate_servers` is its entry.

A kind of series is a function; a table has the share of each kind. This package reads no data.
"""
