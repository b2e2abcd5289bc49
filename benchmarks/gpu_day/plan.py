"""The parts of each of the four runs, most valuable first, and how long they may take.

1: is it right, how fast is it, where does the time go. 2: larger batches, one optimisation after
another, real images. 3: DALI beside our own loaders. 4: small data, whose images stay on the GPU.
The stages of a run add up to less than SECONDS. Left for a longer day: `benchmarks.gemm`, since
run 1 times the MLP's products and profiles all others; torchvision's loader, which needs no GPU.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from benchmarks.loaders.registry import NEED_CUDA

SECONDS = 330
"""Limit of a run, including START for what happens before and after its stages."""
START = 12
FILES = 8
"""Most files that a run leaves."""
BASE = ("mae_vit_base_patch16", "imae_vit_base_patch16")
LARGE_BATCHES = {
    "mae_vit_base_patch16": 1024,
    "imae_vit_base_patch16": 512,
    "mae_vit_large_patch16": 512,
}
"""Batches that fit on a GPU of 80 GB: nearer to its peak than those of the main table."""
NANO = ("--model", "mae_vit_nano_patch8", "--input_size", 32)
TINY = ("--model", "mae_vit_tiny_patch4", "--input_size", 32)
TRAIN = (sys.executable, "-c", "from fastimae.cli import train; raise SystemExit(train())")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A command of a run. Its output goes to NAME.txt in the working folder."""

    name: str
    command: tuple[str, ...]
    file: str = ""
    """File that it writes in the working folder; kept as soon as it exists."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Parts that run at the same time. They also get the time that earlier stages did not use."""

    seconds: float
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DaySettings:
    """Where to run, and with which data."""

    folder: Path
    """The working folder, relative to the repository: results carry the commands that made them."""
    device: str = "cuda"
    smoke: bool = False
    """Tiny shapes, to rehearse."""
    tests: tuple[str, ...] = ()
    """Tests for pytest, instead of the run's."""
    beton: Path = Path("images.beton")
    images: Path = Path("images")
    """The same images, as folders of classes."""
    cifar: Path | None = None
    cifar_val: Path | None = None

    @property
    def where(self) -> tuple[str, ...]:
        """The device and the shapes, as the benchmarks' flags."""
        return ("--device", self.device, *("--smoke",) * self.smoke)

    def measured(self, module: str, *flags: object, out: str) -> Part:
        """Make a part of a benchmark that writes `out` while it measures."""
        command = (sys.executable, "-m", module, *flags, "--out", self.folder / out)
        name = Path(out).stem.removeprefix("gpu_")
        return Part(name=name, command=tuple(map(str, command)), file=out)

    def steps(self, *flags: object, out: str, cases: tuple[str, ...] = BASE) -> Part:
        """Make a part of `benchmarks.train`; in a rehearsal nothing is compiled."""
        if self.smoke:
            cases = tuple({_small(case): None for case in cases})
            flags = (*flags, "--no_compile")
        return self.measured("benchmarks.train", *self.where, "--cases", *cases, *flags, out=out)

    def pytest(self, *chosen: str) -> Part:
        """Make a part of tests; names are printed as they end, also if the run is killed."""
        command = (
            *(sys.executable, "-m", "pytest", *(self.tests or chosen), "-vv", "--tb=short"),
            *("--no-header", "-p", "no:cacheprovider", "--continue-on-collection-errors"),
            *("-n", "6", "--timeout", "100"),
        )
        return Part(name="tests", command=command, file="tests.txt")

    def training(self, name: str, *flags: object, file: str = "") -> Part:
        """Make a part of fastimae-train with these flags."""
        output = self.folder / name
        command = (*TRAIN, "--device", self.device, "--output_dir", output, *flags)
        return Part(name=name, command=tuple(map(str, command)), file=file)


def stages(run: int, settings: DaySettings) -> list[Stage]:
    """Return the stages of run 1, 2, 3 or 4."""
    return RUNS[run](settings)


def _first(s: DaySettings) -> list[Stage]:
    return [
        Stage(20, (_machine(s),)),
        Stage(100, (s.pytest("tests/gpu"), *(_warm_up(s, case) for case in BASE))),
        Stage(40, (_sweep(s, "attention", 28),)),
        Stage(35, (_sweep(s, "mlp", 24),)),
        Stage(65, (s.steps("--rounds", 5, out="gpu_train.json"),)),
        Stage(20, (_kernels(s),)),
        Stage(35, (_profile(s),)),
    ]


def _second(s: DaySettings) -> list[Stage]:
    data = ("--data", s.beton, "--folder", s.images)
    run = s.training("run", "--ffcv", s.beton, *_tiny(s))
    few = [f"tests/gpu/test_cuda_{name}.py" for name in ("graph", "step", "prefetch")]
    imae = {"cases": BASE[1:]}
    rungs = ("--no_table", "--ladder", "--rungs", "new", *_small_batch(s))
    ladder = s.steps(*rungs, out="gpu_ladder.json", **imae)
    fed = s.steps("--no_table", *data, "--seconds", 4, out="gpu_fed.json", **imae)
    return [
        Stage(95, (s.pytest(*few), run, _without_file(_large(s, 1, "warm_up.json")))),
        Stage(55, (_large(s, 3, "gpu_train_large.json"),)),
        Stage(87, (ladder,)),
        Stage(8, (_compared(s, "gpu_ladder.json"),)),
        Stage(45, (fed,)),
        Stage(25, (_curve(s),)),
    ]


def _third(s: DaySettings) -> list[Stage]:
    names = ("native", "native_cuda", "dali")
    names += ("dali_mixed", "dali_mixed_hw0", "dali_mixed_hw1", "native_and_dali")
    return [
        Stage(20, (_machine(s),)),
        Stage(60, (s.pytest("tests/gpu/test_cuda_dali.py"),)),
        Stage(130, (_loaders(s, *names, out="gpu_loaders_dali.json"),)),
        Stage(50, (s.training("dali", "--dali", s.beton, *_tiny(s)),)),
        Stage(50, (s.training("share", "--ffcv", s.beton, "--dali_share", 0.3, *_tiny(s)),)),
    ]


def _fourth(s: DaySettings) -> list[Stage]:
    few = [f"tests/gpu/test_cuda_{name}.py" for name in ("crops", "cache", "resident_step", "step")]
    warm_up = _without_file(_small_data(s, 1, "warm_up.json"))
    learning = [Stage(105, (_cifar_tables(s),))] if s.cifar and s.cifar_val else []
    return [
        Stage(20, (_machine(s),)),
        Stage(80, (s.pytest(*few), warm_up)),
        Stage(70, (_small_data(s, 3, "gpu_small_data.json"),)),
        Stage(40, (_resident(s),)),
        *learning,
    ]


RUNS = {1: _first, 2: _second, 3: _third, 4: _fourth}


def _machine(s: DaySettings) -> Part:
    command = (sys.executable, "-m", "benchmarks.gpu_day.machine", *s.where)
    return Part(name="machine", command=command)


def _warm_up(s: DaySettings, case: str) -> Part:
    """Fill the compilers' caches and check losses beside other parts; its times do not count."""
    compiled = ("--variants", "reference_tuned", "fastimae", "--rounds", 1)
    out = f"warm_up_{case.split('_')[0]}.json"
    return _without_file(s.steps(*compiled, out=out, cases=(case,)))


def _profile(s: DaySettings) -> Part:
    size = 32 if s.smoke else 256
    model = NANO if s.smoke else ()
    return s.training(
        "profile", "--synthetic", "--synthetic_samples", 32 * size, "--batch_size", size,
        "--recipe", "mae_vit_base", *model, "--epochs", 1, "--warmup_epochs", 0, "--profile",
        file="profile/profile-rank0.txt",
    )  # fmt: skip


def _tiny(s: DaySettings) -> tuple[object, ...]:
    """Return flags of a short run of a small model, to see all parts of training together."""
    model = NANO if s.smoke else ("--model", "mae_vit_tiny_patch16")
    return (*model, "--batch_size", 16, "--epochs", 3, "--warmup_epochs", 1, "--log_steps", 4)


def _sweep(s: DaySettings, op: str, seconds: int) -> Part:
    """Make a part of a sweep. seconds: from its first call on."""
    return s.measured(f"benchmarks.{op}", *s.where, "--seconds", seconds, out=f"gpu_{op}.json")


def _small_batch(s: DaySettings) -> tuple[object, ...]:
    """Return flags for a small batch: activations of all recorded rungs are in memory at once."""
    return ("--rounds", 3, *(() if s.smoke else ("--batch_size", 64)))


def _compared(s: DaySettings, measured: str) -> Part:
    """Make a part that compares the model of a step with a measurement; it needs no GPU."""
    file = s.folder / measured
    return s.measured("benchmarks.step_model", "--compare", file, out="gpu_step_model.json")


def _kernels(s: DaySettings) -> Part:
    few = () if s.smoke else ("--only", "ViT-B/16")
    return s.measured("benchmarks.kernels", *s.where, "--no-compile", *few, out="gpu_kernels.json")


def _large(s: DaySettings, rounds: int, out: str) -> Part:
    sizes = () if s.smoke else ("--batch_size", *LARGE_BATCHES.values())
    flags = ("--variants", "fastimae", "--rounds", rounds, *sizes)
    return s.steps(*flags, out=out, cases=tuple(LARGE_BATCHES))


def _loaders(s: DaySettings, *names: str, out: str) -> Part:
    chosen = [name for name in names if s.device != "cpu" or name not in NEED_CUDA]
    flags = ("--data", s.beton, "--no_sweep", "--rounds", 3, "--seconds", 1, "--only", *chosen)
    return s.measured("benchmarks.loaders", *flags, out=out)


def _curve(s: DaySettings) -> Part:
    cifar = () if s.cifar is None else ("--cifar", s.cifar)
    short = ("--steps", 30, "--batch_size", 16) if s.smoke else ()
    return s.measured("benchmarks.train.curve", *s.where, *cifar, *short, out="gpu_curve.json")


def _small_data(s: DaySettings, rounds: int, out: str) -> Part:
    data = ("--data", s.cifar or s.beton, *(("--folder", s.images) if s.cifar is None else ()))
    flags = (*s.where, *data, "--rounds", rounds, "--seconds", 1)
    return s.measured("benchmarks.small_data", *flags, out=out)


def _resident(s: DaySettings) -> Part:
    """Make a part that trains on images that stay on the GPU, and shows what the GPU does."""
    model = (*NANO, "--batch_size", 16) if s.smoke else (*TINY, "--batch_size", 128)
    return s.training(
        "resident", "--ffcv", s.cifar or s.beton, "--cache", "device", *model, "--epochs", 4,
        "--warmup_epochs", 1, "--profile", file="resident/profile-rank0.txt",
    )  # fmt: skip


def _cifar_tables(s: DaySettings) -> Part:
    """Make a part of i-MAE's first table: how many epochs a minute, and whether it can go on."""
    data = ("--ffcv", s.cifar, "--val", s.cifar_val, "--runs", s.folder / "cifar10")
    small = ("--", *NANO, "--images", 64, "--batch_size", 16, "--accum_iter", 1) if s.smoke else ()
    flags = ("--out", s.folder / "gpu_cifar10.json", "--tables", 1, "--minutes", 1.6, *data, *small)
    command = (sys.executable, "-m", "benchmarks.cifar10", *map(str, flags))
    return Part(name="cifar10", command=command, file="gpu_cifar10.json")


def _without_file(part: Part) -> Part:
    """Return the part without its file: only its output is kept."""
    return dataclasses.replace(part, file="")


def _small(case: str) -> str:
    return f"{case.split('_')[0]}_vit_nano_patch8"
