"""The error of a capture that cannot be read."""


class CaptureError(Exception):
    """A file cannot be read, is in no known format, or is not in the format that was given."""
