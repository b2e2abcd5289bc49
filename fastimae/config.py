"""The settings of a training run: those of its parts, composed.

Each part declares its own beside what uses them; names are MAE's where MAE has them. The groups
are flattened on the command line and in YAML files: `--batch_size`, not `--optim.batch_size`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro
import yaml

from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.optim import OptimSettings
from fastimae.engine.plan import LoopSettings, Plan, RunSettings
from fastimae.engine.prepare import SpeedSettings
from fastimae.flags import OnceLoader
from fastimae.loaders.settings import DataSettings, LoaderSettings
from fastimae.models.settings import ModelSettings
from fastimae.objectives.choice import ObjectiveConfig, settings_with
from fastimae.recipes import RECIPES
from fastimae.settings import ConfigError, Count, Free, Seeded, Settings, check_idle, plain_value


@dataclasses.dataclass(kw_only=True)
class OptimConfig(SpeedSettings, OptimSettings):
    """How it is trained."""


@dataclasses.dataclass(kw_only=True)
class OutputSettings(Settings):
    """Named settings, and where output goes."""

    recipe: Free[str | None] = None
    """A named run to start from; other flags win over it."""
    config: Free[Path | None] = None
    """YAML file of settings by flag name; wins over the recipe, flags win over it."""
    print_config: Free[bool] = False
    """Print all settings as YAML and stop."""
    output_dir: Free[Path] = Path("./output_dir")
    """Checkpoints, log.txt and pictures."""
    device: Free[str] = "auto"
    """cuda, cuda:N, cpu, or auto."""


@dataclasses.dataclass(kw_only=True)
class RunConfig(Seeded, LaunchSettings, LoopSettings, OutputSettings):
    """Where it runs, and what it leaves behind."""

    vis_freq: Free[Count] = Plan.vis_freq
    """Epochs between reconstruction pictures; 0: only at the end."""
    debug: Free[bool] = False
    """Show tracebacks, and keep them in output_dir/debug.log."""


@dataclasses.dataclass(kw_only=True)
class TrainConfig:
    """Pre-train a masked autoencoder (MAE, i-MAE)."""

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    @property
    def groups(self) -> dict[str, Settings]:
        """The settings of each part, by its name here."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def loader(self) -> LoaderSettings:
        """What the loader is told, partners for the objectives that need them included."""
        pairs = [self.objective] if self.objective.chosen.needs_partners else []
        return LoaderSettings.gather(self.data, self.optim, self.run, *pairs)

    def check(self) -> None:
        """Raise ConfigError where a value is out of range, or would have no effect."""
        recipe = RECIPES.get(self.run.recipe or "", dict)()
        for group in self.groups.values():
            group.check()
        RunSettings.gather(self.optim, self.run).check()
        if self.objective.chosen.needs_partners:
            self.loader().check_partners()
        for group in self.groups.values():
            check_idle(group, recipe, self.run.recipe)


def config_with(objective: str) -> TrainConfig:
    """The defaults of a run with this objective; a user's own adds its settings. Raises
    ConfigError."""
    group = settings_with(objective)
    fields = [("objective", group, dataclasses.field(default_factory=group))]
    document = {"__doc__": TrainConfig.__doc__}
    made = dataclasses.make_dataclass(
        "TrainConfig", fields, bases=(TrainConfig,), namespace=document, kw_only=True
    )()
    names = [name for part in made.groups.values() for name in vars(part)]
    if twice := {name for name in names if names.count(name) > 1}:
        what = " and ".join(sorted(twice))
        raise ConfigError(f"--objective {objective}: there is another setting called {what}")
    return made


def flatten(config: TrainConfig) -> dict[str, Any]:
    """All settings by flag name, as plain values that YAML, JSON and `weights_only` accept."""
    return {
        field.name: plain_value(getattr(group, field.name))
        for group in config.groups.values()
        for field in dataclasses.fields(group)
    }


def updated(config: TrainConfig, settings: dict[str, Any], source: str) -> TrainConfig:
    """A copy with `settings` (by flag name) changed. `source` is named in errors.

    Raises ConfigError for an unknown setting or a value of the wrong type.
    """
    groups = config.groups
    owner = {f.name: name for name, group in groups.items() for f in dataclasses.fields(group)}
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        if name not in owner:
            raise ConfigError(f"{source}: there is no setting called {key}")
        value = _parsed(type(groups[owner[name]]), name, value, source)
        groups[owner[name]] = dataclasses.replace(groups[owner[name]], **{name: value})
    return dataclasses.replace(config, **groups)


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings of a --config file. Raises ConfigError where it is missing or not a mapping."""
    try:
        settings = yaml.load(path.read_text(), OnceLoader) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path}: expected lines of the form 'batch_size: 64'")
    return settings


def _parsed(owner: type, name: str, value: Any, source: str) -> Any:
    """The value as the field's type, read from text by the same rules as a flag's."""
    hint = get_type_hints(owner)[name]
    if value is None and type(None) in get_args(hint):
        return None
    if value is None:
        raise ConfigError(f"{source}: {name} needs a value")
    texts = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # some of it is printed all the same
            return tyro.cli(hint, args=texts, console_outputs=False)
    except SystemExit:
        raise ConfigError(f"{source}: {name} cannot be {value!r}") from None
