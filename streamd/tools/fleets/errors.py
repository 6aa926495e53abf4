"""The error of the packages that read recorded fleets. Callers translate it into an error of their own."""


class FleetError(Exception):
    """A file, a column or an option of a recorded fleet that cannot be used as given."""
