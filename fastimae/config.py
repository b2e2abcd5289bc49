"""The settings of a training run, composed from those of its parts.

Each part declares its settings beside the code that uses them, with MAE's names where MAE has them.
The groups are flattened on the command line and in YAML: `--batch_size`, not `--optim.batch_size`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.plan import LoopSettings, Plan, RunSettings
from fastimae.engine.probe_settings import ProbeSettings
from fastimae.engine.resolution import ResolutionSettings
from fastimae.engine.settings import OptimSettings, SpeedSettings
from fastimae.loaders.settings import DataSettings, LoaderSettings
from fastimae.models.names import parse_name
from fastimae.models.settings import OF_DECODER, ModelSettings
from fastimae.objectives.choice import ObjectiveConfig, settings_with
from fastimae.other_names import suggestion
from fastimae.pictures.settings import PictureSettings
from fastimae.recipes import AUGMENTATIONS
from fastimae.settings import (
    ConfigError,
    Count,
    Expert,
    Free,
    Idle,
    Seeded,
    Settings,
    check_idle,
    hints_of,
    plain_settings,
    without_idle,
)
from fastimae.values import choices, expected, plain, read_value, takes_paths
from fastimae.wording import did_you_mean

_SOURCES = ("recipe", "config", "aug", "print_config")


@dataclasses.dataclass(kw_only=True)
class OptimConfig(ResolutionSettings, SpeedSettings, OptimSettings):
    """How the model is trained."""


@dataclasses.dataclass(kw_only=True)
class OutputSettings(Settings):
    """The recipe, and where output goes."""

    recipe: Free[str | None] = None
    """Name of a recipe to start from; other flags override its settings."""
    config: Free[Path | None] = None
    """YAML file of settings: it overrides the recipe, flags override it. Paths in it are relative
    to the working directory."""
    aug: Expert[Free[Literal["strong"] | None]] = None
    """strong: --min_crop 0.08 --color_jitter 0.4 --blur 0.5; flags beside it override these. None:
    no more than what flags say."""
    print_config: Free[bool] = False
    """Print all settings as YAML and stop."""
    output_dir: Free[Path] = Path("./output_dir")
    """Folder for checkpoints, log.txt and pictures."""
    device: Free[str] = "auto"
    """cuda, cuda:N, cpu, or auto."""


@dataclasses.dataclass(kw_only=True)
class RunConfig(
    Seeded, LaunchSettings, LoopSettings, ProbeSettings, PictureSettings, OutputSettings
):
    """Where it runs, and what it saves."""

    vis_freq: Free[Count] = Plan.vis_freq
    """Epochs between reconstruction pictures; 0: only at the end."""
    debug: Expert[Free[bool]] = False
    """Show tracebacks, and save them in output_dir/debug.log."""


@dataclasses.dataclass(kw_only=True)
class TrainConfig:
    """Pre-train a masked autoencoder (MAE, i-MAE, R-MAE) or its encoder alone (C-MAE).

    fastimae-train --ffcv imagenet.beton --recipe mae_vit_base --output_dir runs/mae
    """

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    @property
    def groups(self) -> dict[str, Settings]:
        """The groups of settings, by field name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def loader(self) -> LoaderSettings:
        """Return the loader's settings, with those of partners if the objective needs them."""
        pairs = [self.objective.chosen_settings()] if self.objective.needs_partners() else []
        return LoaderSettings.gather(self.data, self.optim, self.run, *pairs)

    def check(self, places: Mapping[str, str] = MappingProxyType({})) -> None:
        """Raise ConfigError if a value is out of range or would have no effect.

        places: where settings are, by flag name, if they were not given as flags.
        """
        for group in self.groups.values():
            group.check()
        RunSettings.gather(self.optim, self.run).check()
        patch_size = parse_name(self.model.model)["patch_size"]
        self.optim.check_sizes(self.data.image_size, patch_size, self.optim.epochs)
        if self.objective.needs_partners():
            self.loader().check_partners()
        self.run.require(
            not self.run.probe_freq or self.optim.parallel != "fsdp",
            "--probe_freq needs the whole encoder in one process: drop it, or --parallel fsdp",
        )
        for name, group in self.groups.items():
            check_idle(group, places, self._idle_in(name))

    def without_idle(self, names: Collection[str]) -> Self:
        """Return a copy without those settings among `names` that have no effect: see
        `fastimae.settings.without_idle`."""
        groups = {
            name: without_idle(group, names, self._idle_in(name))
            for name, group in self.groups.items()
        }
        return dataclasses.replace(self, **groups)

    def _idle_in(self, group: str) -> Iterator[Idle]:
        """Yield the settings of a group that have no effect because of another group."""
        if group == "model":
            no_decoder = not self.objective.chosen.has_decoder
            yield Idle(no_decoder, OF_DECODER, f"with --objective {self.objective.objective}")


def config_with(objective: str) -> TrainConfig:
    """Return the default settings for an objective; a user's own objective adds its settings.

    Raises ConfigError.
    """
    made = _config_class(settings_with(objective))()
    names = [name for part in made.groups.values() for name in vars(part)]
    if twice := {name for name in names if names.count(name) > 1}:
        what = " and ".join(sorted(twice))
        raise ConfigError(f"--objective {objective}: rename its {what}, which is another setting")
    return made


@functools.cache
def _config_class(group: type[Settings]) -> type[TrainConfig]:
    """Return TrainConfig with these settings of an objective; each time the same class, so that a
    parser of it can be kept."""
    fields = [("objective", group, dataclasses.field(default_factory=group))]
    document = {"__doc__": TrainConfig.__doc__}
    return dataclasses.make_dataclass(
        "TrainConfig", fields, bases=(TrainConfig,), namespace=document, kw_only=True
    )


def flatten(config: TrainConfig) -> dict[str, Any]:
    """Return all settings by flag name, as plain values for YAML, JSON and `weights_only`."""
    return {
        name: value
        for group in config.groups.values()
        for name, value in plain_settings(group).items()
    }


def run_settings(settings: Mapping[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings that --print_config prints and run.yaml holds: all but the flags that
    others come from, unless they are to be kept."""
    dropped = {name for name in _SOURCES if name not in keep}
    return {name: value for name, value in settings.items() if name not in dropped}


def updated(
    config: TrainConfig, settings: Mapping[str, Any], place: Callable[[Any], str]
) -> TrainConfig:
    """Return a copy with `settings`, by flag name, changed. Raises as `parsed_settings`.

    An --aug among them stands for the settings in `AUGMENTATIONS`, which others override.
    """
    values = parsed_settings([type(group) for group in config.groups.values()], settings, place)
    values = AUGMENTATIONS.get(values.get("aug"), {}) | values
    changed = {
        name: dataclasses.replace(group, **{n: values[n] for n in vars(group).keys() & values})
        for name, group in config.groups.items()
    }
    return dataclasses.replace(config, **changed)


def parsed_settings(
    owners: Sequence[type[Settings]], settings: Mapping[str, Any], place: Callable[[Any], str]
) -> dict[str, Any]:
    """Convert plain values, by flag name, to the types of the owners' fields.

    place: where a setting is, for errors. Raises ConfigError for an unknown setting, and for a
    value of the wrong type or out of its range.
    """
    owner_of = {field.name: owner for owner in owners for field in dataclasses.fields(owner)}
    values = {}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        try:
            if name not in owner_of:
                raise ValueError(_unknown(key, value, owner_of))
            values[name] = _parsed(owner_of[name], name, value)
        except ValueError as error:
            raise ConfigError(f"{place(key)}: {error}") from error
    return values


def _unknown(key: Any, value: Any, known: Collection[str]) -> str:
    if key in TrainConfig.__annotations__ and isinstance(value, Mapping):
        return f"write the settings below {key} at the top level"
    hint = suggestion(str(key), {name: name for name in known})
    return f"there is no setting called {key}" + (f": {hint}" if hint else "")


def _parsed(owner: type[Settings], name: str, value: Any) -> Any:
    """Convert a value to its field's type, by the rules for a flag's text. Raises ValueError."""
    hint = plain(hints_of(owner)[name])
    if value is None and type(None) in get_args(hint):
        return None
    if value is None or (value == "" and takes_paths(hint)):
        raise ValueError(f"{name} needs a value: it takes {expected(hint)}")
    texts = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
    try:
        if isinstance(value, Mapping):
            raise ValueError
        parsed = read_value(hint, texts)
    except ValueError:
        given = json.dumps(value, default=str, ensure_ascii=False)
        near = did_you_mean(str(value), choices(hint))
        raise ValueError(f"{name} takes {expected(hint)}, not {given}{near}") from None
    if problem := owner.out_of_range(name, parsed):
        raise ValueError(f"{name} {problem}")
    return parsed
