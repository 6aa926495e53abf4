"""The part of the forecasts that is exported as metrics, and their text. Decides and formats, sends nothing."""
