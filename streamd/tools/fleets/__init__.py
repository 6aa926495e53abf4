"""Recorded fleets: files of metrics read onto the contract's grid, and synthetic fleets made from them.

Imports nothing of the other tools, which share it.
"""
