"""The error that users of a loader or converter can mend."""


class DataError(Exception):
    """The data cannot be used as asked. The message names what to change; the CLI prints it."""
