"""Turns the points of many series into one row for each step; pure."""
