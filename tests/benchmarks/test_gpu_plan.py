"""The plan of the GPU's day: it fits its time, and every command in it is understood."""

from pathlib import Path

import pytest

from benchmarks import attention, gemm, kernels
from benchmarks.gpu_day import plan
from benchmarks.gpu_day.plan import Settings, stages
from benchmarks.harness import ROOT
from benchmarks.loaders.options import Options as LoaderOptions
from benchmarks.train import curve
from benchmarks.train.options import Options as TrainOptions
from fastimae.arguments import parse, parse_training

RUNS = (1, 2, 3)


def settings(**changes):
    given = {"folder": Path("build/gpu_day"), "beton": Path("f.beton"), "cifar": Path("c.beton")}
    return Settings(**{**given, **changes})


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_a_run_fits_its_time_and_leaves_few_files(run, smoke):
    found = stages(run, settings(smoke=smoke))
    assert sum(stage.seconds for stage in found) + plan.START <= plan.SECONDS
    parts = [part for stage in found for part in stage.parts]
    kept = [Path(part.file).name for part in parts if part.file]
    assert len(kept) + 2 <= plan.FILES, "with its own JSON and Markdown"
    assert len(set(kept)) == len(kept)
    assert len({part.name for part in parts}) == len(parts)


@pytest.mark.parametrize(
    ("run", "order"),
    [
        (1, "machine tests warm_up_mae warm_up_imae attention gemm train kernels profile"),
        (2, "tests run warm_up train_large ladder fed loaders curve"),
        (3, "machine tests loaders_dali dali share"),
    ],
)
def test_parts_come_in_order_of_worth(run, order):
    assert [part.name for stage in stages(run, settings()) for part in stage.parts] == order.split()


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_commands_are_understood(run, smoke, monkeypatch):
    """Each program parses what the run asks of it; what it would do is not run."""
    device = "cpu" if smoke else "cuda"
    programs = {
        "benchmarks.train": TrainOptions,
        "benchmarks.train.curve": curve.Options,
        "benchmarks.loaders": LoaderOptions,
    }
    parsers = {
        "benchmarks.attention": attention.parser,
        "benchmarks.gemm": gemm.parser,
        "benchmarks.kernels": kernels.parser,
        "benchmarks.gpu_day.machine": None,
    }
    for stage in stages(run, settings(smoke=smoke, device=device)):
        for part in stage.parts:
            _, how, module, *flags = part.command
            if how == "-c":
                config = parse_training(part.name, flags)
                assert config.run.output_dir == Path("build/gpu_day") / part.name
            elif module == "pytest":
                assert all((ROOT / flag).exists() for flag in flags if flag.startswith("tests/"))
            elif module in programs:
                options = parse(module, programs[module], flags)
                assert options.out.parent == Path("build/gpu_day")
            elif parsers[module]:
                assert parsers[module]().parse_args(flags).out.parent == Path("build/gpu_day")


def test_larger_batches_go_to_their_models():
    (large,) = [
        part
        for stage in stages(2, settings())
        for part in stage.parts
        if part.file == "gpu_train_large.json"
    ]
    chosen = parse("train", TrainOptions, list(large.command[3:])).chosen
    assert {case.name: case.batch_cuda for case in chosen} == plan.LARGE_BATCHES
