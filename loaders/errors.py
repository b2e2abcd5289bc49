"""The errors of loaders and of the converter that a user can fix."""

from fastimae.settings import ConfigError
from fastimae.wording import WordedError


class DataError(WordedError):
    """Data that cannot be used as asked. The message names what to change; the CLI prints it."""


class SettingError(DataError, ConfigError):
    """A setting that cannot work: a DataError to callers of a loader, a ConfigError to commands."""
