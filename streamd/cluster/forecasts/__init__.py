"""Forecasts on their way through the chains: appended by owners, followed and posted by readers."""
