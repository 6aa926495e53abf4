"""Live scoring of stored forecasts, and its report."""
