"""The base of all settings: ranges beside their declarations, checks, and errors.

A part declares its settings as a keyword-only dataclass in the file that uses them. The fields are
its flags, its keys in YAML and its arguments in Python; the text below a field is its help.

    @dataclasses.dataclass(kw_only=True)
    class CropSettings(Settings):
        min_crop: PositiveFloat = 0.2
        \"\"\"Smallest share of an image's area that a random crop takes.\"\"\"

        def check(self) -> None:
            super().check()
            self.require(self.min_crop <= 1, "--min_crop must not be above 1")

A setting that another part has, too, refers to its default: `epochs: PositiveInt = Other.epochs`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
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
"""Channels of an image, unless stated otherwise."""


class ConfigError(WordedError, ValueError):
    """Settings that cannot work. The message names what to change, see `WordedError`."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Turn ValueErrors into ConfigErrors while a run is set up."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a setting may be; of a tuple, each one."""

    holds: Callable[[Any], bool]
    otherwise: str
    """The error message after the flag, about a value {} outside the range."""


POSITIVE = Range(lambda value: value > 0, "must be positive, not {}")
NOT_NEGATIVE = Range(lambda value: value >= 0, "must not be negative: {}")

PositiveInt = Annotated[int, POSITIVE]
PositiveFloat = Annotated[float, POSITIVE]
Count = Annotated[int, NOT_NEGATIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Share = Annotated[float, Range(lambda value: 0 <= value <= 1, "must be in 0..1, not {}")]
InnerShare = Annotated[float, Range(lambda value: 0 < value < 1, "must be between 0 and 1, not {}")]
Rate = Annotated[
    float, Range(lambda value: 0 <= value < 1, "must be at least 0 and below 1, not {}")
]
MaskShare = Rate
"""The share of patches that are masked, where none may be."""
PositiveShare = Annotated[
    float, Range(lambda value: 0 < value <= 1, "must be above 0 and at most 1, not {}")
]
OF_FULL_RANGE = "values are divided by 255, or by 65535 if they have 16 bits"
"""Why --mean and --std are in 0..1, for errors."""
PixelMean = Annotated[
    float, Range(lambda value: 0 <= value <= 1, f"must be in 0..1, not {{}}: {OF_FULL_RANGE}")
]
PixelStd = Annotated[
    float,
    Range(
        lambda value: 0 < value <= 1, f"must be above 0, and at most 1, not {{}}: {OF_FULL_RANGE}"
    ),
]
MixShare = Annotated[
    float, Range(lambda value: 0 < value <= 0.5, "must be above 0 and at most 0.5, not {}")
]
"""The share of the subordinate image in a mixture."""


def height_and_width(
    input_size: Sequence[int] | int, error: type[ConfigError] = ConfigError
) -> tuple[int, int]:
    """Return --input_size, a side or both, as (height, width). Raises `error`."""
    if isinstance(input_size, Integral):
        return input_size, input_size
    if len(input_size) not in (1, 2):
        raise error("--input_size takes a side, or height and width")
    height, *width = input_size
    return height, *(width or [height])


def flag(**how: Any) -> Any:
    """Describe a setting's flag, `Annotated[int, flag(aliases=["--same_prob"])]`: see
    `tyro.conf.arg`. None without tyro, as there are no command lines then."""
    try:
        import tyro
    except ImportError:
        return None
    return tyro.conf.arg(**how)


_FREE = object()
_Type = TypeVar("_Type")
Free = Annotated[_Type, _FREE]
"""Marks a setting that a resumed run may change without a warning: `Free[int]`.

A free setting does not change what is learned from now on: where the run is stored, which devices
and processes it uses, how fast it computes, what it saves and logs, and what it started from. All
others define the run: if one has changed, resuming logs a warning.
"""
FileNames = Annotated[str, object()]
"""Text that names files where `Path` cannot: a pattern, or a word such as "auto". See
`fastimae.paths`."""
EXPERT = object()
Expert = Annotated[_Type, EXPERT]
"""A setting that few runs need: `--help` leaves it to `--help-all`."""


class Idle(NamedTuple):
    """Settings that have no effect in some runs: changing them there is a mistake."""

    applies: bool
    names: tuple[str, ...]
    why: str
    """For example "without --teacher"."""


@dataclasses.dataclass(kw_only=True)
class Settings:
    """Base of all settings."""

    error: ClassVar[type[ConfigError]] = ConfigError
    """The exception for settings that cannot work."""

    def check(self) -> None:
        """Raise `error` if a value is out of its range or conflicts with another."""
        for name in _ranges(type(self)):
            problem = self.out_of_range(name, getattr(self, name))
            self.require(problem is None, f"--{name} {problem}")

    @classmethod
    def out_of_range(cls, name: str, value: Any) -> str | None:
        """Return how a value is out of a setting's range, to be put after its name; else None."""
        values = _values(value)
        for allowed in _ranges(cls)[name]:
            if values == ():
                return "needs a value"
            if wrong := [each for each in values or () if not allowed.holds(each)]:
                return allowed.otherwise.format(wrong[0])
        return None

    def require(self, holds: bool, message: str) -> None:
        """Raise `error` with the message unless it holds."""
        if not holds:
            raise self.error(message)

    def idle(self) -> Iterator[Idle]:
        """Yield the settings that have no effect, given the others."""
        return iter(())

    @classmethod
    def gather(cls, *groups: Any) -> Self:
        """Make these settings from the groups' values of the same names; a later group wins, and
        the rest are defaults."""
        names = {field.name for field in dataclasses.fields(cls)}
        held = {name: value for group in groups for name, value in vars(group).items()}
        return cls(**{name: held[name] for name in names & held.keys()})

    def taken_by(self, function: Callable) -> dict[str, Any]:
        """Return the settings that a function has keyword-only arguments with defaults for."""
        return {name: vars(self)[name] for name in function.__kwdefaults__.keys() & vars(self)}


@dataclasses.dataclass(kw_only=True)
class Seeded(Settings):
    """Settings of parts that draw random numbers."""

    seed: int = 0
    """Seed of all random choices: order, crops, masks, mixtures and initial weights."""


@dataclasses.dataclass(kw_only=True)
class StepSize(Settings):
    """The size of an optimizer step; the loader and the learning rate depend on it."""

    batch_size: PositiveInt = 64
    """Images per GPU and accumulation step; effective batch: this x accum_iter x GPUs."""
    accum_iter: PositiveInt = 1
    """Batches whose gradients are added up before a step."""


@dataclasses.dataclass(kw_only=True)
class PartnerSettings(Settings):
    """The partners that the loader gives to images."""

    mix_group: Expert[Count] = 0
    """Number of consecutive samples that partners are drawn from; 0: the complete batch."""


@dataclasses.dataclass(kw_only=True)
class PairSettings(PartnerSettings):
    """How the loader pairs images for an objective that mixes them."""

    same_class_ratio: Share | None = None
    """Share of mixtures whose images share a class. None: partners at random."""
    pseudo_labels: Expert[Path | None] = None
    """File of fastimae-eval cluster: its clusters, not labels, are --same_class_ratio's classes."""
    reciprocal_pairs: Expert[bool] = False
    """Mix images in mutual pairs that share a mask: one teacher pass, but noisier gradients."""

    def idle(self) -> Iterator[Idle]:
        """As in `Settings`."""
        yield from super().idle()
        yield Idle(self.same_class_ratio is None, ("pseudo_labels",), "without --same_class_ratio")


_Part = TypeVar("_Part", bound=Settings)


def check_idle(
    settings: Settings, places: Mapping[str, str] | None = None, more: Iterable[Idle] = ()
) -> None:
    """Raise `settings.error` if a setting is not at its default but has no effect.

    places: where settings are that were not given as flags, by name. more: rules that depend on
    other groups of settings.
    """
    places, defaults = places or {}, _defaults(settings)
    for rule in (*settings.idle(), *more):
        changed = [
            f"--{name} ({places[name]})" if name in places else f"--{name}"
            for name in (rule.names if rule.applies else ())
            if _values(getattr(settings, name)) != _values(defaults[name])
        ]
        undo = "drop it" if rule.why.startswith("without") else "drop one of them"
        if len(changed) > 1:
            names = f"{', '.join(changed[:-1])} and {changed[-1]}"
            raise settings.error(f"{names} have no effect {rule.why}: drop them")
        settings.require(not changed, f"{''.join(changed)} has no effect {rule.why}: {undo}")


def without_idle(settings: _Part, names: Collection[str], more: Iterable[Idle] = ()) -> _Part:
    """Return a copy in which those of `names` that have no effect have their defaults.

    For what a recipe sets, and not the user: a flag beside it may take its effect away. more: see
    `check_idle`.
    """
    rules = (*settings.idle(), *more)
    idle = {name for rule in rules if rule.applies for name in rule.names}
    defaults = _defaults(settings)
    return dataclasses.replace(settings, **{name: defaults[name] for name in idle & set(names)})


def _defaults(settings: Settings) -> dict[str, Any]:
    """Return the defaults of all settings, by name; MISSING where there is none."""
    return {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in dataclasses.fields(settings)
    }


def _values(value: Any) -> tuple[Any, ...] | None:
    """Return the values of a sequence, or a single value in a tuple; None for None."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def plain_value(value: Any) -> Any:
    """Convert a setting for YAML, JSON and `weights_only`: paths to text, tuples to lists."""
    if isinstance(value, tuple | list):
        return [plain_value(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def plain_settings(group: Settings) -> dict[str, Any]:
    """Return the settings of a group by name, as plain values: see `plain_value`.

    A float has the same form whether it is a default, such as 40, or was read from text.
    """
    return {name: plain_value(_as_read(group, name)) for name in hints_of(type(group))}


def free_settings() -> set[str]:
    """Return the names of all `Free` settings that this program has loaded."""
    found, parts = set(), [Settings]
    while parts:
        parts += (part := parts.pop()).__subclasses__()
        found |= _free_in(part)
    return found


@functools.cache
def _free_in(cls: type) -> set[str]:
    hints = get_type_hints(cls, include_extras=True)
    return {name for name, hint in hints.items() if _FREE in getattr(hint, "__metadata__", ())}


@functools.cache
def _ranges(cls: type) -> dict[str, list[Range]]:
    return {name: list(_found(hint)) for name, hint in hints_of(cls).items()}


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name, with their annotations."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _as_read(group: Settings, name: str) -> Any:
    """Return a setting as its flag would read it: an int as a float if its type is float."""
    value = getattr(group, name)
    if isinstance(value, int) and not isinstance(value, bool) and _takes_floats(type(group), name):
        return float(value)
    return value


@functools.cache
def _takes_floats(cls: type, name: str) -> bool:
    scalars = set(_scalars(hints_of(cls)[name]))
    return float in scalars and int not in scalars


def _scalars(hint: Any) -> Iterator[Any]:
    """Yield the plain types that a hint consists of."""
    if get_origin(hint) is Literal:
        return
    parts = get_args(hint)
    if get_origin(hint) is Annotated:
        parts = parts[:1]
    if not parts:
        yield hint
    for part in parts:
        yield from _scalars(part)


def _found(hint: Any) -> Iterator[Range]:
    """Yield the ranges in a hint, however nested: `Annotated[int, POSITIVE] | None`."""
    choices = get_args(hint)
    if get_origin(hint) is Literal:
        yield Range(choices.__contains__, f"{{}} is not one of {', '.join(map(str, choices))}")
        return
    for part in choices:
        if isinstance(part, Range):
            yield part
        else:
            yield from _found(part)


def lacks_heads(settings: Mapping[str, Any]) -> bool:
    """Return whether a run's settings are those of an i-MAE without heads (--no_disentangle)."""
    return settings.get("disentangle") is False
