"""Error of data that cannot be used."""


class DataError(ValueError):
    """Data that does not fit the task, or is unavailable: names the file, what was found and what is accepted."""
