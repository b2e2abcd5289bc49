"""What settings of all parts share: ranges beside the declarations, rules, and their errors.

A part declares its settings as a keyword-only dataclass in the file that uses them. Its flags, its
lines of YAML and its arguments in Python are the fields; what follows a field is its help.

    @dataclasses.dataclass(kw_only=True)
    class WindowSettings(Settings):
        min_crop: PositiveFloat = 0.2
        \"\"\"Smallest share of an image's area that a random crop takes.\"\"\"

        def check(self) -> None:
            super().check()
            self.require(self.min_crop <= 1, "--min_crop must not be above 1")

A setting that others have too refers to their default: `epochs: PositiveInt = Other.epochs`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from fastimae.wording import WordedError

RGB = 3
"""Channels of an image that nobody says more of."""


class ConfigError(WordedError, ValueError):
    """Settings that cannot work. The message names what to change: see `WordedError`."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """While a run is set up, ValueErrors of its parts are errors of its settings."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers a setting may be; of a tuple, each of them."""

    holds: Callable[[Any], bool]
    otherwise: str
    """What is said after the flag, of a value {} that it does not hold for."""


POSITIVE = Range(lambda value: value > 0, "must be positive, not {}")
NOT_NEGATIVE = Range(lambda value: value >= 0, "must not be negative: {}")

PositiveInt = Annotated[int, POSITIVE]
PositiveFloat = Annotated[float, POSITIVE]
Count = Annotated[int, NOT_NEGATIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Share = Annotated[float, Range(lambda value: 0 <= value <= 1, "must lie in 0..1, not {}")]
InnerShare = Annotated[
    float, Range(lambda value: 0 < value < 1, "must lie between 0 and 1, not {}")
]
MixShare = Annotated[
    float, Range(lambda value: 0 < value <= 0.5, "must lie above 0 and at most at 0.5, not {}")
]
"""Of the subordinate image in a mixture."""


def height_and_width(
    input_size: Sequence[int] | int, error: type[ConfigError] = ConfigError
) -> tuple[int, int]:
    """What --input_size says, a side or both, as (height, width). Raises `error`."""
    if isinstance(input_size, Integral):
        return input_size, input_size
    if len(input_size) not in (1, 2):
        raise error("--input_size takes a side, or height and width")
    height, *width = input_size
    return height, *(width or [height])


def flag(**how: Any) -> Any:
    """How a setting looks on a command line, `Annotated[int, flag(aliases=["--same_prob"])]`: see
    `tyro.conf.arg`. Without tyro there are no command lines, and nothing to look like."""
    try:
        import tyro
    except ImportError:
        return None
    return tyro.conf.arg(**how)


_FREE = object()
_Type = TypeVar("_Type")
Free = Annotated[_Type, _FREE]
"""Of a setting that a resumed run may change without becoming another run: `Free[int]`."""


class Idle(NamedTuple):
    """Settings that do nothing in some runs: to change them there is a mistake, not a wish."""

    applies: bool
    names: tuple[str, ...]
    why: str
    """As "without --teacher"."""


@dataclasses.dataclass(kw_only=True)
class Settings:
    """Base of all settings."""

    error: ClassVar[type[ConfigError]] = ConfigError
    """What is raised for those that cannot work."""

    def check(self) -> None:
        """Raise `error` where a value is out of its range, or does not fit another."""
        for name, ranges in _ranges(type(self)).items():
            values = _values(getattr(self, name))
            for allowed in ranges:
                self.require(values != (), f"--{name} needs a value")
                for each in values or ():
                    self.require(allowed.holds(each), f"--{name} {allowed.otherwise.format(each)}")

    def require(self, holds: bool, message: str) -> None:
        """Raise `error` with the message unless it holds."""
        if not holds:
            raise self.error(message)

    def idle(self) -> Iterator[Idle]:
        """Which of these settings have no effect, given the others."""
        return iter(())

    @classmethod
    def gather(cls, *groups: Any) -> Self:
        """These settings with what the groups hold under the same names, a later one first; all
        others have their defaults."""
        names = {field.name for field in dataclasses.fields(cls)}
        held = {name: value for group in groups for name, value in vars(group).items()}
        return cls(**{name: held[name] for name in names & held.keys()})

    def taken_by(self, function: Callable) -> dict[str, Any]:
        """Those that a function takes as keyword-only arguments with defaults, to call it with."""
        return {name: vars(self)[name] for name in function.__kwdefaults__.keys() & vars(self)}


@dataclasses.dataclass(kw_only=True)
class Seeded(Settings):
    """Settings of what draws at random."""

    seed: int = 0
    """All random choices follow from it: order, crops, masks, mixtures and initial weights."""


@dataclasses.dataclass(kw_only=True)
class StepSize(Settings):
    """How many images an optimizer step takes, which loader and learning rate have to know."""

    batch_size: PositiveInt = 64
    """Images per GPU and accumulation step; effective batch = this x accum_iter x GPUs."""
    accum_iter: PositiveInt = 1
    """Batches whose gradients are added up before a step."""


@dataclasses.dataclass(kw_only=True)
class PairSettings(Settings):
    """Who is mixed with whom, which the loader pairs for an objective that mixes."""

    mix_group: Count = 0
    """Partners are found among so many consecutive samples; 0: in the whole batch."""
    same_class_ratio: Share | None = None
    """Share of mixtures whose images share a class. None: partners at random."""
    reciprocal_pairs: bool = False
    """Partner's partner is oneself, and both share a mask: one teacher pass serves both."""


def check_idle(
    settings: Settings, recipe: Mapping[str, Any] | None = None, recipe_name: str | None = None
) -> None:
    """Raise `settings.error` where one is not at its default, and would do nothing.

    recipe: the settings that `recipe_name` stands for; one of those cannot be dropped alone.
    """
    recipe = recipe or {}
    defaults = {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in dataclasses.fields(settings)
    }
    for rule in settings.idle():
        for name in rule.names if rule.applies else ():
            value, default = getattr(settings, name), defaults[name]
            of_recipe = name in recipe and plain_value(value) == recipe[name]
            whose = f" of --recipe {recipe_name}" if of_recipe else ""
            undo = f"add --{name} {default}" if of_recipe else "drop one of them"
            same = _values(value) == _values(default)
            settings.require(same, f"--{name}{whose} has no effect {rule.why}: {undo}")


def _values(value: Any) -> tuple[Any, ...] | None:
    """Of a tuple, or what Python has for one, each; None where no value is given."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def plain_value(value: Any) -> Any:
    """A setting as YAML, JSON and `weights_only` take it: paths are text, tuples are lists."""
    if isinstance(value, tuple | list):
        return [plain_value(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def free_settings() -> set[str]:
    """The names of the settings that are `Free`, of all parts of this program."""
    found, parts = set(), [Settings]
    while parts:
        parts += (part := parts.pop()).__subclasses__()
        hints = get_type_hints(part, include_extras=True)
        found |= {
            name for name, hint in hints.items() if _FREE in getattr(hint, "__metadata__", ())
        }
    return found


@functools.cache
def _ranges(cls: type) -> dict[str, list[Range]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: list(_found(hints[field.name])) for field in dataclasses.fields(cls)}


def _found(hint: Any) -> Iterator[Range]:
    """The ranges in a hint, however deep: `Annotated[int, POSITIVE] | None`."""
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        yield Range(choices.__contains__, f"{{}} is not one of {', '.join(map(str, choices))}")
        return
    for part in choices:
        if isinstance(part, Range):
            yield part
        else:
            yield from _found(part)
