"""Measurements of several variants of one network, in one run; it serves nothing."""
