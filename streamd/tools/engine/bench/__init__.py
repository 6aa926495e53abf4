"""Measures variants of one network beside each other."""
