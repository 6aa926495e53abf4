"""Writes versions and plans to disk, whole or not at all."""
