"""Graphs in half precision and int8."""
