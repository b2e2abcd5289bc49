"""What settings of all parts share: ranges beside the declarations, rules, and their errors.

A part declares its settings as a keyword-only dataclass in the file that uses them. Its flags, its
lines of YAML and its arguments in Python are the fields; what follows a field is its help.

    @dataclasses.dataclass(kw_only=True)
    class WindowSettings(Settings):
        min_crop: PositiveFloat = 0.2
        \"\"\"Smallest share of an image's area that a random crop takes.\"\"\"

        def check(self) -> None:
            super().check()
            require(self.min_crop <= 1, "--min_crop must not be above 1")

A setting that others have too refers to their default: `epochs: PositiveInt = Other.epochs`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, Self, get_args, get_type_hints


class ConfigError(ValueError):
    """Settings that cannot work. The message names the flag to change."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """While a run is set up, ValueErrors of its parts are errors of its settings."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


def require(holds: bool, message: str) -> None:
    """Raise ConfigError with the message unless it holds."""
    if not holds:
        raise ConfigError(message)


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers a setting may be; of a tuple, each of them."""

    holds: Callable[[float], bool]
    otherwise: str
    """What is said after the flag, of a value that it does not hold for."""


POSITIVE = Range(lambda value: value > 0, "must be positive")
NOT_NEGATIVE = Range(lambda value: value >= 0, "must not be negative")

PositiveInt = Annotated[int, POSITIVE]
PositiveFloat = Annotated[float, POSITIVE]
Count = Annotated[int, NOT_NEGATIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Share = Annotated[float, Range(lambda value: 0 <= value <= 1, "must lie in 0..1")]
InnerShare = Annotated[
    float, Range(lambda value: 0 < value < 1, "{value} must lie between 0 and 1")
]


class Idle(NamedTuple):
    """Settings that do nothing in some runs: to change them there is a mistake, not a wish."""

    applies: bool
    names: tuple[str, ...]
    why: str
    """As "without --teacher"."""


@dataclasses.dataclass(kw_only=True)
class Settings:
    """Base of all settings."""

    def check(self) -> None:
        """Raise ConfigError where a value is out of its range, or does not fit another."""
        for name, value in vars(self).items():
            for allowed in _ranges(type(self)).get(name, ()):
                if value == ():
                    raise ConfigError(f"--{name} needs a value")
                values = value if isinstance(value, tuple) else () if value is None else (value,)
                if not all(map(allowed.holds, values)):
                    raise ConfigError(f"--{name} {allowed.otherwise.format(value=value)}")

    def idle(self) -> Iterator[Idle]:
        """Which of these settings have no effect, given the others."""
        return iter(())

    @classmethod
    def gather(cls, *groups: Any, **given: Any) -> Self:
        """These settings with what the groups hold under the same names, a later one first; all
        others as `given`, or their defaults."""
        names = {field.name for field in dataclasses.fields(cls)}
        held = {name: value for group in groups for name, value in vars(group).items()}
        return cls(**{name: held[name] for name in names & held.keys()} | given)


def check_idle(
    settings: Settings,
    recipe: Mapping[str, Any],
    recipe_name: str | None,
    idle: Iterator[Idle] | None = None,
) -> None:
    """Raise ConfigError where a setting is not at its default, and would do nothing.

    recipe: the settings that `recipe_name` stands for; one of those cannot be dropped alone.
    idle: rules beside the settings' own.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for rule in [*settings.idle(), *(idle or ())]:
        for name in rule.names if rule.applies else ():
            value, default = getattr(settings, name), defaults[name]
            of_recipe = name in recipe and plain_value(value) == recipe[name]
            whose = f" of --recipe {recipe_name}" if of_recipe else ""
            undo = f"add --{name} {default}" if of_recipe else "drop one of them"
            require(value == default, f"--{name}{whose} has no effect {rule.why}: {undo}")


def plain_value(value: Any) -> Any:
    """A setting as YAML, JSON and `weights_only` take it: paths are text, tuples are lists."""
    if isinstance(value, tuple | list):
        return [plain_value(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


@functools.cache
def _ranges(cls: type) -> dict[str, list[Range]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: list(_found(hints[field.name])) for field in dataclasses.fields(cls)}


def _found(hint: Any) -> Iterator[Range]:
    """The ranges in a hint, however deep: `Annotated[int, POSITIVE] | None`."""
    for part in get_args(hint):
        if isinstance(part, Range):
            yield part
        else:
            yield from _found(part)
