"""Scores past forecasts once the truth is known, and compares two versions."""
