"""streamd: a server fleet's metrics in, quantile forecasts out."""

__version__ = "0.1.0"
