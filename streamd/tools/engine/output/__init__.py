"""Writes what was built: engine versions and folders of plans, whole or not at all. It builds and judges nothing."""
