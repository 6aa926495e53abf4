"""The rule by which a target counts as sent: a model forecasts a feature that no agent sends too."""

RECENT_SHARE = 12
"""A target is sent if its newest value is at most this part of the context length old: 24 rows of 288."""


def count_recent_rows(context_length: int) -> int:
    """Return the number of newest rows; a target without a value in them has no forecast that means anything."""
    return max(context_length // RECENT_SHARE, 1)
