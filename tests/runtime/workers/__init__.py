"""Tests of the package `streamd.runtime.workers`."""
