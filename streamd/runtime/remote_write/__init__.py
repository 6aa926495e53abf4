"""Forecasts that the daemon sends to a store of metrics by Prometheus remote write."""
