"""The plan of the GPU day: it fits its time, and every command in it is valid."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.attention import __main__ as attention
from benchmarks.cifar10.__main__ import CifarOptions
from benchmarks.gpu_day import plan
from benchmarks.gpu_day.plan import DaySettings, stages
from benchmarks.harness import ROOT
from benchmarks.kernels import __main__ as kernels
from benchmarks.loaders.__main__ import LoaderBenchOptions
from benchmarks.mlp import __main__ as mlp
from benchmarks.small_data import __main__ as small_data
from benchmarks.step_model import __main__ as step_model
from benchmarks.sweeps import sweep_parser
from benchmarks.train import curve
from benchmarks.train.__main__ import TrainBenchOptions
from fastimae.arguments import parse, parse_training

RUNS = (1, 2, 3, 4)


def settings(**changes):
    given = {"folder": Path("build/gpu_day"), "beton": Path("f.beton")}
    given |= {"cifar": Path("c.beton"), "cifar_val": Path("v.beton")}
    return DaySettings(**{**given, **changes})


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
        (1, "machine tests warm_up_mae warm_up_imae attention mlp train kernels profile"),
        (2, "tests run warm_up train_large ladder step_model fed curve"),
        (3, "machine tests loaders_dali dali share"),
        (4, "machine tests warm_up small_data resident cifar10"),
    ],
)
def test_the_most_valuable_parts_come_first(run, order):
    assert [part.name for stage in stages(run, settings()) for part in stage.parts] == order.split()


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_commands_are_understood(run, smoke, monkeypatch):
    """Each program parses its command; nothing is run."""
    monkeypatch.setattr(step_model, "_measured", Path)  # there is nothing yet
    device = "cpu" if smoke else "cuda"
    programs = {
        "benchmarks.train": TrainBenchOptions,
        "benchmarks.train.curve": curve.CurveOptions,
        "benchmarks.loaders": LoaderBenchOptions,
        "benchmarks.cifar10": CifarOptions,
    }
    parsers = {
        "benchmarks.attention": lambda: sweep_parser(attention.OP),
        "benchmarks.mlp": lambda: sweep_parser(mlp.OP),
        "benchmarks.kernels": kernels.parser,
        "benchmarks.step_model": step_model.parser,
        "benchmarks.small_data": small_data.parser,
        "benchmarks.gpu_day.machine": None,
    }
    for stage in stages(run, settings(smoke=smoke, device=device)):
        for part in stage.parts:
            _, how, module, *flags = part.command
            assert how == "-c" or find_spec(module), f"{part.name}: there is no {module}"
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
    chosen = parse("train", TrainBenchOptions, list(large.command[3:])).chosen
    assert {case.name: case.batch_cuda for case in chosen} == plan.LARGE_BATCHES
