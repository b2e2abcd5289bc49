"""The log that all parts write to; commands decide where it is shown."""

import logging

log = logging.getLogger("fastimae")
