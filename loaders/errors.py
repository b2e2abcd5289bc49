"""The error that users of a loader or converter can mend."""

from fastimae.wording import WordedError


class DataError(WordedError):
    """The data cannot be used as asked. The message names what to change; the CLI prints it."""
