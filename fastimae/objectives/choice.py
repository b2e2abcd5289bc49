"""--objective: one of ours by its name, or a user's own by its place, and the settings of each."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator
from typing import Annotated, Any

from fastimae.objectives.base import Objective
from fastimae.objectives.imae import IMAE
from fastimae.objectives.mae import MAE
from fastimae.own_code import imported
from fastimae.settings import ConfigError, Idle, PairSettings, Settings, flag

OBJECTIVES: dict[str, type[Objective]] = {"mae": MAE, "imae": IMAE}

Name = Annotated[str, flag(metavar=f"{{{','.join(OBJECTIVES)},module:Class}}")]
"""What `find` takes."""


@dataclasses.dataclass(kw_only=True)
class _Named(Settings):
    objective: Name = "mae"
    """mae: reconstruct an image. imae: reconstruct two images from their mixture. module:Class:
    your own, which is imported and so run, from here first; its settings are flags, too."""


class _Choice(Settings):
    """What is minimised. A setting that the objective does not have may not be given."""

    @property
    def chosen(self) -> type[Objective]:
        """The class that --objective names. Raises ConfigError."""
        return find(self.objective)

    def own(self) -> Settings:
        """The settings of the chosen objective."""
        return self.chosen.Settings.gather(self)

    def check(self) -> None:
        """As of `Settings`, for the chosen objective's."""
        self.own().check()

    def idle(self) -> Iterator[Idle]:
        """As of `Settings`; settings of other objectives do nothing."""
        own = self.own()
        others = [f.name for f in dataclasses.fields(self) if not hasattr(own, f.name)]
        others.remove("objective")
        yield Idle(True, tuple(others), f"with --objective {self.objective}")
        yield from own.idle()


def objective_title(objective: str) -> str:
    """What pages call it; nothing is imported for that."""
    found = OBJECTIVES.get(objective)
    return found.title if found else objective.rpartition(":")[2]


def find(objective: str) -> type[Objective]:
    """The class of one of `OBJECTIVES`, or a user's own, "module:Class". Raises ConfigError."""
    if objective in OBJECTIVES:
        return OBJECTIVES[objective]
    if ":" not in objective:
        raise ConfigError(
            f"--objective {objective} is not one of: {', '.join(OBJECTIVES)}; your own is given as "
            "module:Class"
        )

    def is_one(found: Any) -> bool:
        return isinstance(found, type) and issubclass(found, Objective)

    found = imported("--objective", objective, "Objective", is_one, ConfigError)
    for problem in _problems(found):
        raise ConfigError(f"--objective {objective}: {problem}")
    return found


@functools.cache
def settings_with(objective: str) -> type[Settings]:
    """--objective and the settings of all of ours, and of a user's own if it is one, as one class.

    Objectives share a setting by deriving it from one base, and may give it another default: that
    of a user's own wins. Raises ConfigError.
    """
    chosen = find(objective).Settings
    of_all = [chosen, *(each.Settings for each in OBJECTIVES.values())]
    for each in of_all[1:]:
        for name in vars(chosen()).keys() & vars(each()).keys():
            if root_of(chosen, name) is not (root := root_of(each, name)):
                raise ConfigError(
                    f"--objective {objective}: its {name} is not ours: derive it from "
                    f"{root.__name__}, or call it otherwise"
                )
    bases = [
        a for a in dict.fromkeys(of_all) if not any(a is not b and issubclass(b, a) for b in of_all)
    ]
    content = {"__doc__": _Choice.__doc__, "__module__": __name__}
    group = type("ObjectiveConfig", (_Choice, *bases, _Named), content)  # _Named's field is first
    return dataclasses.dataclass(kw_only=True)(group)


def _problems(objective: type[Objective]) -> Iterator[str]:
    """Why a class cannot be an objective, or its settings flags."""
    settings = objective.Settings
    if inspect.isabstract(objective):
        yield f"it has no {' and no '.join(sorted(objective.__abstractmethods__))}"
    ours = isinstance(settings, type) and issubclass(settings, Settings)
    if not ours or "__dataclass_fields__" not in vars(settings):
        yield "its Settings is not a dataclass that derives fastimae.settings.Settings"
    for field in dataclasses.fields(settings):
        if field.default is field.default_factory:  # both missing
            yield f"its {field.name} has no default"
        if field.name == "objective" or hasattr(_Choice, field.name):
            yield f"its {field.name} means something else: call it otherwise"
    if objective.needs_partners and not issubclass(settings, PairSettings):
        yield "it needs partners: derive its Settings from fastimae.settings.PairSettings"


def root_of(settings: type, name: str) -> type:
    """The class that a setting is declared in first."""
    return [c for c in settings.__mro__ if name in inspect.get_annotations(c)][-1]


ObjectiveConfig = settings_with("mae")
"""The settings of a run with an objective of ours."""
