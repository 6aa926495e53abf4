"""Live scoring of posted forecasts, and its report."""
