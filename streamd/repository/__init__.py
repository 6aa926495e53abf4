"""The model repository: engine versions on disk, their manifests and records, and the choice of the one that serves.

Runs no network and knows no lanes.
"""
