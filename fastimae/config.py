"""Every setting of a training run: its name (MAE's where MAE has it), default and meaning.

The groups are flattened on the command line and in YAML files: `--batch_size`, not
`--optim.batch_size`. A cross-field check names the flag to change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import tyro
import yaml

from fastimae.flags import OnceLoader
from fastimae.objectives.choice import ObjectiveConfig, settings_with
from fastimae.settings import ConfigError, plain_value
from fastimae.settings import config_errors as config_errors


@dataclasses.dataclass(kw_only=True)
class DataConfig:
    """Where images come from. Give one of --ffcv, --dali, --data_path, --synthetic."""

    ffcv: Path | None = None
    """A .beton file, made by fastimae-convert or the ffcv library."""
    decoder: Literal["auto", "native", "pillow", "ffcv"] = "auto"
    """Who decodes the .beton: our engine (the default where it is built), Pillow, or ffcv's."""
    ffcv_ops: str | None = None
    """module:function that returns operations of the ffcv library, for --decoder ffcv to run."""
    cache: Literal["none", "ram"] = "none"
    """ram: read all of the .beton first and keep it in memory, once for all ranks of a machine."""
    label_field: str | None = None
    """Which field of a .beton file of several is the label; none: it has no labels."""
    image_field: str | None = None
    """Which field of a .beton file of several is the image."""
    dali: str | None = None
    """A .beton, a folder, or shards-{000..146}.tar (in quotes): DALI decodes, on the GPU if any."""
    dali_share: float = 0.0
    """Share of the samples of --ffcv that DALI decodes, for CPUs that cannot feed the GPU alone."""
    hw_decoder_load: float = 0.65
    """Share of DALI's JPEGs that the GPU's own JPEG engine decodes, where it has one."""
    data_path: Path | None = None
    """A folder of images, by class or flat; its train/ is taken where it has one."""
    synthetic: bool = False
    """Made-up images: an upper bound for speed."""
    synthetic_samples: int = 10_000
    """How many images --synthetic pretends to have."""
    input_size: tuple[int, ...] = (224,)
    """Pixels: a side, or height and width."""
    in_chans: int = 3
    """Channels: 3 for RGB, 1 for gray."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, in 0..1. None: ImageNet's, or 0.5."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel. None: ImageNet's, or 0.5."""
    min_crop: float = 0.2
    """Smallest share of an image's area that a random crop takes."""
    max_crop: float = 1.0
    """Largest share."""
    crop: Literal["random", "none"] = "random"
    """none: show the whole image, resized to --input_size."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width / height of a random crop, relative to --input_size's."""
    hflip: bool = True
    """Flip half of the crops."""
    repeated_aug: int = 1
    """Crops of each image in a batch. An epoch shows the data so often: divide --epochs by it."""
    num_workers: int = 10
    """Threads (processes with --data_path) that decode; 0 decodes in the main thread."""
    pin_mem: bool = True
    """Page-locked batches, for faster copies to a GPU."""
    max_bad_samples: int = 100
    """Unreadable images are replaced and counted; more than this many end the run."""
    max_pixels: int | None = None
    """Larger images count as unreadable: 4 bytes a pixel and worker. None: Pillow's 89 million."""
    value_range: tuple[float, float] | None = None
    """LOW HIGH, of images of more than 8 bits: what becomes 0 and 255. None: 16 bits are scaled,
    floating-point and 32-bit images count as unreadable."""


@dataclasses.dataclass(kw_only=True)
class ModelConfig:
    """What is trained."""

    model: str = "mae_vit_large_patch16"
    """mae_vit_{nano,tiny,small,base,large,huge}_patchN, N from 2 to 32."""
    num_heads: int | None = None
    """Attention heads of the encoder. None: the model's own."""
    decoder_embed_dim: int | None = None
    """Width of the decoder. None: the model's own."""
    decoder_depth: int | None = None
    """Blocks of the decoder. None: the model's own."""
    decoder_num_heads: int | None = None
    """Attention heads of the decoder. None: the model's own."""
    norm_pix_loss: bool = False
    """Normalise the pixels of each target patch (better features, odder pictures)."""
    init: Path | None = None
    """Start the student from this MAE checkpoint."""
    allow_partial: bool = False
    """Load --init or --teacher even if keys are missing or left over (they are listed)."""


@dataclasses.dataclass(kw_only=True)
class OptimConfig:
    """How it is trained."""

    batch_size: int = 64
    """Images per GPU and accumulation step; effective batch = this x accum_iter x GPUs."""
    epochs: int = 400
    """Passes over the data."""
    accum_iter: int = 1
    """Batches whose gradients are added up before a step."""
    weight_decay: float = 0.05
    """AdamW's, on matrices only."""
    lr: float | None = None
    """Absolute learning rate. None: blr x effective batch / 256."""
    blr: float = 1e-3
    """Base learning rate, of an effective batch of 256."""
    min_lr: float = 0.0
    """Where the half-cosine ends."""
    warmup_epochs: float = 40
    """Epochs of linear warm-up."""
    clip_grad: float | None = None
    """Largest norm of the gradient. None: no clipping."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 on GPUs that have it and on CPUs with AMX or AVX512-bf16, else fp32."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What GPUs share: ddp, the batch only; fsdp, also weights and optimizer, to fit more."""
    opt: Literal["adamw", "apex_adam"] = "adamw"
    """adamw: torch's fused AdamW. apex_adam: FusedAdam of NVIDIA apex, if that is installed."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile for the transformer blocks; auto: on a GPU. Its first steps take a minute."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Record the step as CUDA graphs and replay them; auto: on one GPU, in bf16 or fp32."""
    grad_checkpointing: bool = False
    """Keep only the inputs of blocks, and compute the rest again: less memory, a third slower."""
    kernels: Literal["auto", "torch"] = "auto"
    """auto: our Triton kernels on a GPU. torch: plain torch there too, to compare the two."""
    attention: Literal["auto", "triton", "sdpa"] | None = None
    """auto: on a GPU, our kernel or SDPA, the faster. None: FASTIMAE_ATTENTION says, else auto."""


@dataclasses.dataclass(kw_only=True)
class RunConfig:
    """Where it runs, and what it leaves behind."""

    recipe: str | None = None
    """A named run to start from; other flags win over it."""
    config: Path | None = None
    """YAML file of settings by flag name; wins over the recipe, flags win over it."""
    print_config: bool = False
    """Print all settings as YAML and stop."""
    output_dir: Path = Path("./output_dir")
    """Checkpoints, log.txt and pictures."""
    log_dir: Path | None = None
    """TensorBoard files. None: in output_dir."""
    resume: str = ""
    """A checkpoint to go on from; auto: the last one in output_dir, if there is one."""
    start_epoch: int = 0
    """First epoch of a run that does not resume."""
    seed: int = 0
    """Order, crops, masks, mixtures and initial weights follow from it."""
    device: str = "auto"
    """cuda, cuda:N, cpu, or auto."""
    save_freq: int = 20
    """Epochs between checkpoint-N.pth files; the last epoch is always kept."""
    save_steps: int = 0
    """Steps between saves of checkpoint-last.pth within an epoch; 0: each epoch only."""
    vis_freq: int = 20
    """Epochs between reconstruction pictures; 0: only at the end."""
    log_steps: int = 20
    """Steps between readings of the loss (each waits for the GPU)."""
    world_size: int = 1
    """Checked against the launcher's (torchrun, SLURM), which sets it."""
    local_rank: int = -1
    """Set by old launchers: the GPU of this process."""
    dist_on_itp: bool = False
    """Take ranks from Open MPI's environment."""
    dist_url: str = "env://"
    """Where processes meet."""
    dist_timeout: float = 600
    """Seconds that processes wait for each other before they give up."""
    preempt_signal: Literal["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU"] = "SIGUSR1"
    """Asks to save and stop, as SIGTERM does: what the scheduler sends before it takes a node."""
    profile: bool = False
    """Write a trace of steps 20 to 30 to output_dir, for ui.perfetto.dev."""
    nan_check: bool = False
    """Check every module for NaN, forward and backward, and name the first. Slow."""
    debug: bool = False
    """Show tracebacks, and keep them in output_dir/debug.log."""


@dataclasses.dataclass(kw_only=True)
class TrainConfig:
    """Pre-train a masked autoencoder (MAE, i-MAE)."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return height_and_width(self.data.input_size)


def config_with(objective: str) -> TrainConfig:
    """The defaults of a run with this objective; a user's own adds its settings. Raises
    ConfigError."""
    group = settings_with(objective)
    fields = [("objective", group, dataclasses.field(default_factory=group))]
    document = {"__doc__": TrainConfig.__doc__}
    made = dataclasses.make_dataclass(
        "TrainConfig", fields, bases=(TrainConfig,), namespace=document, kw_only=True
    )()
    parts = vars(made).values()
    names = [field.name for part in parts for field in dataclasses.fields(part)]
    if twice := {name for name in names if names.count(name) > 1}:
        what = " and ".join(sorted(twice))
        raise ConfigError(f"--objective {objective}: there is another setting called {what}")
    return made


def height_and_width(input_size: Sequence[int]) -> tuple[int, int]:
    """What --input_size says, a side or both, as (height, width). Raises ConfigError."""
    if len(input_size) not in (1, 2):
        raise ConfigError("--input_size takes a side, or height and width")
    if min(input_size) <= 0:
        raise ConfigError("--input_size must be positive")
    height, *width = input_size
    return height, *(width or [height])


def flatten(config: TrainConfig) -> dict[str, Any]:
    """All settings by flag name, as plain values that YAML, JSON and `weights_only` accept."""
    groups = (getattr(config, group.name) for group in dataclasses.fields(config))
    return {
        field.name: plain_value(getattr(group, field.name))
        for group in groups
        for field in dataclasses.fields(group)
    }


def updated(config: TrainConfig, settings: dict[str, Any], source: str) -> TrainConfig:
    """A copy with `settings` (by flag name) changed. `source` is named in errors.

    Raises ConfigError for an unknown setting or a value of the wrong type.
    """
    groups = {group.name: getattr(config, group.name) for group in dataclasses.fields(config)}
    owner = {f.name: name for name, group in groups.items() for f in dataclasses.fields(group)}
    for key, value in settings.items():
        name = key.replace("-", "_")
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
    if value is None:
        return None
    texts = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # some of it is printed all the same
            return tyro.cli(get_type_hints(owner)[name], args=texts, console_outputs=False)
    except SystemExit:
        raise ConfigError(f"{source}: {name} cannot be {value!r}") from None
