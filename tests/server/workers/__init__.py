"""Tests of the package `streamd.server.workers`."""
