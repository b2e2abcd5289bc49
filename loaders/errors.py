"""The errors that users of a loader or converter can mend."""

from fastimae.settings import ConfigError
from fastimae.wording import WordedError


class DataError(WordedError):
    """The data cannot be used as asked. The message names what to change; the CLI prints it."""


class SettingError(DataError, ConfigError):
    """A setting that cannot work: of the data to who calls a loader, of a run to its command."""
