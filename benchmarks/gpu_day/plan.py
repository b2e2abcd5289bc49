"""What each of the three runs does, in order of worth, and how long it may take.

1: is it right, how fast is it, where does the time go. 2: larger batches, one optimisation after
another, real images. 3: DALI. A run's stages add up to less than SECONDS.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from benchmarks.loaders.contestants import NEED_CUDA

SECONDS = 330
"""Of a whole run, with START for what happens before and after its stages."""
START = 12
FILES = 8
"""A run leaves no more."""
BASE = ("mae_vit_base_patch16", "imae_vit_base_patch16")
LARGE_BATCHES = {
    "mae_vit_base_patch16": 1024,
    "imae_vit_base_patch16": 512,
    "mae_vit_large_patch16": 512,
}
"""What a GPU of 80 GB has room for: nearer to its peak than the batches of the main table."""
NANO = ("--model", "mae_vit_nano_patch8", "--input_size", 32)
TRAIN = (sys.executable, "-c", "from fastimae.cli import train; raise SystemExit(train())")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A command of a run. What it prints goes to NAME.txt in the run's working folder."""

    name: str
    command: tuple[str, ...]
    file: str = ""
    """What it leaves, in the working folder; kept from the first moment that it is there."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Parts that run at once. They also have the time that the stages before them left."""

    seconds: float
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Where to run, and on what."""

    folder: Path
    """The working folder, relative to the repository: results carry the commands that made them."""
    device: str = "cuda"
    smoke: bool = False
    """Tiny shapes, to rehearse."""
    tests: tuple[str, ...] = ()
    """Of pytest, in place of the tests that the run has by itself."""
    beton: Path = Path("images.beton")
    images: Path = Path("images")
    """The same images, as folders of classes."""
    cifar: Path | None = None

    @property
    def where(self) -> tuple[str, ...]:
        """The device and the shapes, as the benchmarks' flags."""
        return ("--device", self.device, *("--smoke",) * self.smoke)

    def measured(self, module: str, *flags: object, out: str) -> Part:
        """A benchmark that writes `out` as it measures."""
        command = (sys.executable, "-m", module, *flags, "--out", self.folder / out)
        name = Path(out).stem.removeprefix("gpu_")
        return Part(name=name, command=tuple(map(str, command)), file=out)

    def steps(self, *flags: object, out: str, cases: tuple[str, ...] = BASE) -> Part:
        """`benchmarks.train`, tuned variants compiled on a GPU alone."""
        if self.smoke:
            cases = tuple({_small(case): None for case in cases})
            flags = (*flags, "--no_compile")
        return self.measured("benchmarks.train", *self.where, "--cases", *cases, *flags, out=out)

    def pytest(self, *chosen: str) -> Part:
        """The tests that need a GPU; names are printed as they end, so that a killed run tells."""
        command = (
            *(sys.executable, "-m", "pytest", *(self.tests or chosen), "-vv", "--tb=short"),
            *("--no-header", "-p", "no:cacheprovider", "--continue-on-collection-errors"),
            *("-n", "6", "--timeout", "100"),
        )
        return Part(name="tests", command=command, file="tests.txt")

    def training(self, name: str, *flags: object, file: str = "") -> Part:
        """fastimae-train of some settings."""
        output = self.folder / name
        command = (*TRAIN, "--device", self.device, "--output_dir", output, *flags)
        return Part(name=name, command=tuple(map(str, command)), file=file)


def stages(run: int, settings: Settings) -> list[Stage]:
    """The stages of run 1, 2 or 3."""
    return {1: _first, 2: _second, 3: _third}[run](settings)


def _first(s: Settings) -> list[Stage]:
    return [
        Stage(20, (_machine(s),)),
        Stage(100, (s.pytest("tests/gpu"), *(_warm_up(s, case) for case in BASE))),
        Stage(45, (_sweep(s),)),
        Stage(20, (s.measured("benchmarks.gemm", *s.where, out="gpu_gemm.json"),)),
        Stage(65, (s.steps("--rounds", 5, out="gpu_train.json"),)),
        Stage(30, (_kernels(s),)),
        Stage(35, (_profile(s),)),
    ]


def _second(s: Settings) -> list[Stage]:
    data = ("--data", s.beton, "--folder", s.images)
    run = s.training("run", "--ffcv", s.beton, *_tiny(s))
    few = [f"tests/gpu/test_cuda_{name}.py" for name in ("graph", "step", "prefetch")]
    imae = {"cases": BASE[1:]}
    ladder = s.steps("--no_table", "--ladder", "--rounds", 3, out="gpu_ladder.json", **imae)
    fed = s.steps("--no_table", *data, "--seconds", 4, out="gpu_fed.json", **imae)
    loaders = _loaders(s, "native", "native_cuda", "torchvision", out="gpu_loaders.json")
    return [
        Stage(95, (s.pytest(*few), run, _unkept(_large(s, 1, "warm_up.json")))),
        Stage(55, (_large(s, 3, "gpu_train_large.json"),)),
        Stage(70, (ladder,)),
        Stage(45, (fed,)),
        Stage(25, (loaders,)),
        Stage(25, (_curve(s),)),
    ]


def _third(s: Settings) -> list[Stage]:
    names = ("native", "native_cuda", "dali")
    names += ("dali_mixed", "dali_mixed_hw0", "dali_mixed_hw1", "native_and_dali")
    return [
        Stage(20, (_machine(s),)),
        Stage(60, (s.pytest("tests/gpu/test_cuda_dali.py"),)),
        Stage(130, (_loaders(s, *names, out="gpu_loaders_dali.json"),)),
        Stage(50, (s.training("dali", "--dali", s.beton, *_tiny(s)),)),
        Stage(50, (s.training("share", "--ffcv", s.beton, "--dali_share", 0.3, *_tiny(s)),)),
    ]


def _machine(s: Settings) -> Part:
    command = (sys.executable, "-m", "benchmarks.gpu_day.machine", *s.where)
    return Part(name="machine", command=command)


def _warm_up(s: Settings, case: str) -> Part:
    """Fills the compilers' caches and checks the losses, beside other parts: it times nothing."""
    compiled = ("--variants", "reference_tuned", "fastimae", "--rounds", 1)
    return _unkept(s.steps(*compiled, out=f"warm_up_{case.split('_')[0]}.json", cases=(case,)))


def _profile(s: Settings) -> Part:
    size = 32 if s.smoke else 256
    model = NANO if s.smoke else ()
    return s.training(
        "profile", "--synthetic", "--synthetic_samples", 32 * size, "--batch_size", size,
        "--recipe", "mae_vit_base", *model, "--epochs", 1, "--warmup_epochs", 0, "--profile",
        file="profile/profile-rank0.txt",
    )  # fmt: skip


def _tiny(s: Settings) -> tuple[object, ...]:
    """A short run of a small model: whether all parts of a run work together."""
    model = NANO if s.smoke else ("--model", "mae_vit_tiny_patch16")
    return (*model, "--batch_size", 16, "--epochs", 3, "--warmup_epochs", 1, "--log_steps", 4)


def _sweep(s: Settings) -> Part:
    flags = (*s.where, "--seconds", 33)  # without what comes before its first call
    return s.measured("benchmarks.attention", *flags, out="gpu_attention.json")


def _kernels(s: Settings) -> Part:
    few = () if s.smoke else ("--only", "ViT-B/16")
    return s.measured("benchmarks.kernels", *s.where, "--no-compile", *few, out="gpu_kernels.json")


def _large(s: Settings, rounds: int, out: str) -> Part:
    sizes = () if s.smoke else ("--batch_size", *LARGE_BATCHES.values())
    flags = ("--variants", "fastimae", "--rounds", rounds, *sizes)
    return s.steps(*flags, out=out, cases=tuple(LARGE_BATCHES))


def _loaders(s: Settings, *names: str, out: str) -> Part:
    chosen = [name for name in names if s.device != "cpu" or name not in NEED_CUDA]
    flags = ("--data", s.beton, "--no_sweep", "--rounds", 3, "--seconds", 1, "--only", *chosen)
    return s.measured("benchmarks.loaders", *flags, out=out)


def _curve(s: Settings) -> Part:
    cifar = () if s.cifar is None else ("--cifar", s.cifar)
    short = ("--steps", 30, "--batch_size", 16) if s.smoke else ()
    return s.measured("benchmarks.train.curve", *s.where, *cifar, *short, out="gpu_curve.json")


def _unkept(part: Part) -> Part:
    """The part, of which only what it prints is kept."""
    return dataclasses.replace(part, file="")


def _small(case: str) -> str:
    return f"{case.split('_')[0]}_vit_nano_patch8"
