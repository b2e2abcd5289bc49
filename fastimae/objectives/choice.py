"""The flag --objective: finds a built-in objective or a user's own, and collects its settings."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from fastimae.objectives.settings import IMAESettings, MAESettings, PixelSettings
from fastimae.settings import ConfigError, Idle, PairSettings, Settings, flag, lacks_heads
from fastimae.user_code import import_from_spec
from fastimae.wording import did_you_mean

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective


class BuiltIn(NamedTuple):
    """A built-in objective. Its class is imported only for a run: flags need no torch."""

    Settings: type[Settings]
    module: str
    name: str

    def load(self) -> type[Objective]:
        """Import the class."""
        return getattr(importlib.import_module(f"fastimae.objectives.{self.module}"), self.name)


OBJECTIVES = {
    "mae": BuiltIn(MAESettings, "mae", "MAE"),
    "imae": BuiltIn(IMAESettings, "imae", "IMAE"),
}

ObjectiveName = Annotated[str, flag(metavar=f"{{{','.join(OBJECTIVES)},module:Class}}")]
"""The names that `find_objective` accepts."""


@dataclasses.dataclass(kw_only=True)
class _ObjectiveFlag(Settings):
    objective: ObjectiveName = "mae"
    """mae: reconstruct images. imae: both images of a mixture. module:Class: your own; its module
    is run, from the current folder first."""


class _ChosenObjective(Settings):
    """The objective to minimise. Its settings are flags; those of other objectives are refused."""

    @property
    def chosen(self) -> type[Objective]:
        """The class that --objective names. Raises ConfigError."""
        return find_objective(self.objective)

    def chosen_settings(self) -> Settings:
        """Return the settings of the chosen objective."""
        return _settings_of(self.objective).gather(self)

    def needs_partners(self) -> bool:
        """Return whether the chosen objective reads partners: always, or for --cutmix."""
        chosen = self.chosen_settings()
        return self.chosen.needs_partners or (
            isinstance(chosen, PixelSettings) and chosen.cutmix > 0
        )

    def check(self) -> None:
        """Check the settings of the chosen objective: see `Settings`."""
        self.chosen_settings().check()

    def idle(self) -> Iterator[Idle]:
        """Yield idle settings, see `Settings`; those of other objectives have no effect, either."""
        chosen = self.chosen_settings()
        others = [f.name for f in dataclasses.fields(self) if not hasattr(chosen, f.name)]
        others.remove("objective")
        yield Idle(True, tuple(others), f"with --objective {self.objective}")
        yield from chosen.idle()


def objective_title(objective: str) -> str:
    """Return an objective's name on report pages, without importing a user's own."""
    built_in = OBJECTIVES.get(objective)
    return built_in.load().title if built_in else objective.rpartition(":")[2]


def run_title(settings: Mapping[str, Any]) -> str:
    """Return what a run trains, on pages and in tables: the title, and "without heads" if so."""
    title = objective_title(str(settings.get("objective", "")))
    return f"{title} without heads" if lacks_heads(settings) else title


def find_objective(objective: str) -> type[Objective]:
    """Return the class of a name in `OBJECTIVES`, or import "module:Class". Raises ConfigError."""
    if objective in OBJECTIVES:
        return OBJECTIVES[objective].load()
    if ":" not in objective:
        raise ConfigError(
            f"--objective {objective} is not one of: {', '.join(OBJECTIVES)}, or your own as "
            f"module:Class{did_you_mean(objective, OBJECTIVES)}"
        )

    from fastimae.objectives.base import Objective

    def is_objective(found: Any) -> bool:
        return isinstance(found, type) and issubclass(found, Objective)

    found = import_from_spec("--objective", objective, "Objective", is_objective, ConfigError)
    for problem in _problems(found):
        raise ConfigError(f"--objective {objective}: {problem}")
    return found


@functools.cache
def settings_with(objective: str) -> type[Settings]:
    """Make one class of --objective and the settings of all built-in objectives and the given one.

    Objectives share a setting by deriving it from the same base, and may change its default; that
    of the given objective wins. Raises ConfigError.
    """
    chosen = _settings_of(objective)
    of_all = [chosen, *(each.Settings for each in OBJECTIVES.values())]
    for each in of_all[1:]:
        for name in vars(chosen()).keys() & vars(each()).keys():
            if declaring_class(chosen, name) is not (root := declaring_class(each, name)):
                raise ConfigError(
                    f"--objective {objective}: its {name} clashes with a built-in setting: derive "
                    f"it from {root.__name__}, or rename it"
                )
    bases = [
        a for a in dict.fromkeys(of_all) if not any(a is not b and issubclass(b, a) for b in of_all)
    ]
    content = {"__doc__": _ChosenObjective.__doc__, "__module__": __name__}
    # Dataclasses collect fields from the last base on, so --objective comes first.
    group = type("ObjectiveConfig", (_ChosenObjective, *bases, _ObjectiveFlag), content)
    return dataclasses.dataclass(kw_only=True)(group)


def _settings_of(objective: str) -> type[Settings]:
    """Return the settings class of one of `OBJECTIVES`, or of "module:Class", which is imported."""
    return (OBJECTIVES.get(objective) or find_objective(objective)).Settings


def _problems(objective: type[Objective]) -> Iterator[str]:
    """Yield the reasons why a class cannot be an objective, or its settings cannot be flags."""
    settings = objective.Settings
    if inspect.isabstract(objective):
        yield f"it has no {' and no '.join(sorted(objective.__abstractmethods__))}"
    derived = isinstance(settings, type) and issubclass(settings, Settings)
    if not derived or "__dataclass_fields__" not in vars(settings):
        yield "its Settings is not a dataclass derived from fastimae.settings.Settings"
    for field in dataclasses.fields(settings):
        if field.default is field.default_factory:  # both missing
            yield f"its {field.name} has no default"
        if field.name == "objective" or hasattr(_ChosenObjective, field.name):
            yield f"its {field.name} is a reserved name: rename it"
    if objective.needs_partners and not issubclass(settings, PairSettings):
        yield "it needs partners: derive its Settings from fastimae.settings.PairSettings"


def declaring_class(settings: type, name: str) -> type:
    """Return the base class that declares a setting first."""
    return [c for c in settings.__mro__ if name in inspect.get_annotations(c)][-1]


ObjectiveConfig = settings_with("mae")
"""The settings of a run with a built-in objective."""
