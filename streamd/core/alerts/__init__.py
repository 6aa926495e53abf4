"""Alerts: what a rule is, when a forecast crosses its threshold, and when an alert begins and ends."""
