"""fastimae-bench: it measures what it says, and its advice follows from what it measured."""

import contextlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from beton_by_hand import many_fields
from fake_cuda_memory import CudaMemory

from fastimae.arguments import parse_training
from fastimae.bench import command, measure
from fastimae.bench.advice import Findings, advice, best_batch_size, best_workers, bottleneck
from fastimae.bench.measure import Speed
from fastimae.bench.options import BenchOptions, changed, data_settings, settings
from fastimae.cli import bench, convert
from fastimae.cpus import usable_cores
from fastimae.engine.distributed import World
from fastimae.engine.step import Step
from fastimae.engine.throttle import Throttle
from fastimae.flags import flags_of
from fastimae.loaders import BetonWriter
from fastimae.loaders.images.pixel_form import PixelForm

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TINY = ["--model", "mae_vit_nano_patch8", "--input_size", "32"]
SMALL = [*TINY, "--batch_size", "16"]


def speed(img_per_s, **more):
    return Speed(img_per_s=img_per_s, ms=1e3, **more)


def found(loader, step, both, **tries):
    tries = {k: {n: speed(v) for n, v in values.items()} for k, values in tries.items()}
    return Findings(loader=speed(loader), step=speed(step), both=speed(both), **tries)


class Clock:
    """In place of time.perf_counter: goes on only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("time.perf_counter", made)
    return made


@pytest.fixture(scope="module")
def beton(image_folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "small.beton"
    assert convert([str(image_folder), str(file)]) == 0
    return file


@pytest.mark.parametrize("objective", ["mae", "imae"])
def test_it_measures_three_things_and_suggests_a_run(objective, beton, capsys):
    batch_size = ["--batch_size", "32" if objective == "imae" else "16"]
    argv = [str(beton), *TINY, *batch_size, "--objective", objective, "--seconds", "1"]
    assert bench([*argv, "--num_workers", "1", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    pattern = r"^(loader alone|step alone \(synthetic\)|both) +([\d.e+]+) +([\d.e+]+)"
    rows = re.findall(pattern, text, re.MULTILINE)
    assert [name for name, *_ in rows] == ["loader alone", "step alone (synthetic)", "both"]
    size = 32 if objective == "imae" else 16
    for _, img_per_s, ms in rows:
        assert float(img_per_s) == pytest.approx(1e3 * size / float(ms), rel=0.01)
    suggested = re.search(r"suggested: fastimae-train (.*)", text)[1].split()
    assert objective in suggested
    config = parse_training("fastimae-train", suggested)
    assert config.model.model == "mae_vit_nano_patch8" and config.data.ffcv == beton


def test_without_data_the_step_alone(capsys):
    assert bench([*SMALL, "--seconds", "0.2", "--no_suggest", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "--in_chans" not in text
    assert "step alone" in text and "loader alone" not in text
    assert "give a .beton file" in text and "--synthetic" in text


def test_images_of_many_channels_of_16_bits(tmp_path, capsys):
    with BetonWriter(tmp_path / "x.beton", form=PixelForm(6, np.dtype(np.uint16))) as writer:
        for _ in range(16):
            writer.append(bytes(2 * 6 * 32 * 32), mode="raw", height=32, width=32, label=0)
    flags = [*TINY, "--batch_size", "8", "--num_workers", "1", "--device", "cpu", "--no_suggest"]
    command = [str(tmp_path / "x.beton"), *flags, "--seconds", "0.2"]
    assert bench(command) == 2 and "give --in_chans 6" in capsys.readouterr().err
    assert bench([*command, "--in_chans", "6"]) == 0
    text = capsys.readouterr().out
    assert "both" in text and "--in_chans 6" in text


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["nowhere.beton"], "nowhere.beton"),
        (["--model", "resnet50"], "--model"),
        (["--seconds", "0"], "--seconds"),
        (["--batch_size", "0"], "--batch_size"),
        (["--sedonds", "5"], "--sedonds"),
    ],
)
def test_errors_are_one_line_that_names_the_flag(argv, named, capsys):
    assert bench(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("fastimae-bench: error:") and named in line


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [((900, 1000, 850), "loader"), ((5000, 1000, 990), "step"), ((2000, 1000, 600), "shared")],
)
def test_the_bottleneck(speeds, expected):
    assert bottleneck(found(*speeds)) == expected


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ((999, 1000, 999), "loader"),
        ((1000, 1000, 999), "step"),
        ((5000, 1000, 849), "shared"),
        ((5000, 1000, 851), "step"),
    ],
    ids=["below the step", "as fast", "disturbed", "hardly disturbed"],
)
def test_where_the_bottleneck_changes(speeds, expected):
    """A loader that is slower than the step; both together at 85 % of the slower one's speed."""
    assert bottleneck(found(*speeds)) == expected


@pytest.mark.parametrize(("img_per_s", "expected"), [(1199, 8), (1200, 1), (1201, 1)])
def test_a_fifth_more_than_the_step_takes_is_enough(img_per_s, expected):
    assert best_workers(found(900, 1000, 880, workers={1: img_per_s, 8: 3000}), 4) == expected


@pytest.mark.parametrize(("img_per_s", "expected"), [(969, 8), (970, 1), (971, 1)])
def test_what_is_97_percent_as_fast_is_as_fast(img_per_s, expected):
    tries = {1: img_per_s, 8: 1000}
    assert best_workers(found(900, 9000, 880, workers=tries), 4) == expected
    assert best_batch_size(found(1, 1, 1, batch_sizes=tries), 1) == expected


@pytest.mark.parametrize(
    ("workers", "tried", "line"),
    [
        (3, {}, "--num_workers 4: this machine has 4 cores"),
        (4, {}, None),
        (2, {2: 900, 4: 1000}, "--num_workers 4: this machine has 4 cores"),
        (4, {2: 900, 4: 1000}, None),
        (2, {2: 980, 4: 1000}, None),
    ],
    ids=["fewer than cores", "all cores", "more are faster", "the fastest", "no faster"],
)
def test_more_workers_are_advised_where_they_help(workers, tried, line):
    lines = advice(
        found(900, 2000, 880, workers=tried), workers=workers, cores=4, batch_size=64,
        on_gpu=False, fp32=False,
    )  # fmt: skip
    assert [one for one in lines if "--num_workers" in one] == [line] * (line is not None)


@pytest.mark.parametrize("fp32", [False, True])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_half_precision_is_for_gpus_in_fp32(on_gpu, fp32):
    where = {"workers": 4, "cores": 4, "batch_size": 64}
    first, *flags = advice(found(9000, 2000, 1950), **where, on_gpu=on_gpu, fp32=fp32)
    assert "step is the bottleneck" in first
    assert [flag.split(":")[0] for flag in flags] == ["--precision bf16"] * (on_gpu and fp32)


def test_advice_names_the_flag():
    where = {"workers": 4, "cores": 16, "batch_size": 64, "on_gpu": True, "fp32": False}
    slow = found(900, 2000, 880, workers={4: 900, 16: 3000})
    first, second, *rest = advice(slow, **where)
    assert "loader is the bottleneck: it delivers 45%" in first
    assert second.startswith("--num_workers 16")
    assert any("--dali_share" in line for line in rest)
    fast = found(9000, 2000, 1950, batch_sizes={64: 2000, 128: 2600})
    first, second, *rest = advice(fast, **where)
    assert "step is the bottleneck" in first
    assert second.startswith("--batch_size 128: 1.30 times")
    shared = found(3000, 2000, 1000, workers={1: 2500, 4: 3000})
    first, second, *rest = advice(shared, **where | {"on_gpu": False})
    assert "50% slower" in first and second.startswith("--num_workers 1")


def test_the_fewest_workers_that_are_enough():
    enough = found(900, 1000, 880, workers={1: 700, 2: 1300, 4: 2500})
    assert best_workers(enough, 4) == 2
    never = found(900, 9000, 880, workers={1: 700, 2: 1300, 4: 2500, 8: 2520})
    assert best_workers(never, 4) == 4
    assert best_workers(found(1, 1, 1), 7) == 7


def test_the_smallest_batch_that_is_as_fast():
    tried = {64: 1000, 128: 1500, 256: 1510}
    assert best_batch_size(found(1, 1, 1, batch_sizes=tried), 64) == 128
    assert best_batch_size(found(1, 1, 1), 64) == 64


def test_batch_sizes_are_tried_until_memory_is_full(monkeypatch):
    def step_speed(config, device, seconds):
        if config.optim.batch_size > 512:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return speed(config.optim.batch_size)

    monkeypatch.setattr(command, "step_speed", step_speed)
    config = settings(BenchOptions(batch_size=128), CPU)
    tried = command.try_batch_sizes(config, GPU, 1, lambda: 1.0, speed(1e6))
    assert {n: one.img_per_s for n, one in tried.items()} == {256: 256, 512: 512}


def test_a_try_is_made_where_there_is_time_to_compile_for_it(monkeypatch):
    """It takes as long as the last one, most of which was not for measuring."""
    now, compiling = [0.0], 40.0

    def step_speed(config, device, seconds):
        now[0] += compiling + seconds
        return speed(1e6, took=compiling + seconds)

    monkeypatch.setattr(command, "step_speed", step_speed)
    config, given = settings(BenchOptions(batch_size=128), CPU), speed(1e6, took=52.0)
    for seconds, sizes in ((51, []), (53, [256]), (100, [256, 512]), (129, [256, 512])):
        end = now[0] + seconds
        left = lambda end=end: end - now[0]  # noqa: E731
        assert list(command.try_batch_sizes(config, GPU, 4, left, given)) == sizes
        assert now[0] <= end


def test_what_a_measurement_took_counts_all_of_it(monkeypatch, clock):
    def training_step(*_):
        clock.passes(100)  # compiling
        return lambda batch: clock.passes(2)

    monkeypatch.setattr(measure, "training_step", training_step)
    one = measure.step_speed(settings(BenchOptions(), CPU), CPU, 10)
    assert (one.took, one.ms) == (100 + 2 + 10, 2000), "one step is for warming up"


def test_memory_of_a_recorded_step_is_its_activations_too(monkeypatch):
    """They count while the step is recorded; replays allocate nothing."""
    memory = CudaMemory(monkeypatch, allocated=1e9)
    memory.touch(70e9)  # by something else, before
    batch = SimpleNamespace(to=lambda _: None)
    monkeypatch.setattr(measure, "_loader", lambda *_: contextlib.nullcontext([batch]))

    def training_step(*_):
        memory.keep(2e9)
        return memory.recorded(10e9, warm_up=3)

    monkeypatch.setattr(measure, "training_step", training_step)
    config = settings(BenchOptions(), CPU)
    assert measure.step_speed(config, GPU, 0.05).memory_gb == 13
    monkeypatch.setattr(measure, "endless", lambda loader: loader)
    monkeypatch.setattr(measure, "DevicePrefetch", lambda loader, _: Again(loader))
    memory.keep(-2e9)
    assert measure.combined_speed(config, GPU, 0.05).memory_gb == 13


class Again(contextlib.nullcontext):
    """A loader of one batch, again and again."""

    def __enter__(self):
        return self

    def __iter__(self):
        while True:
            yield None


def test_a_batch_that_does_not_fit_while_recording_does_not_fit(monkeypatch, capsys):
    """The step goes on without graphs, and keeps the error, which may come from another."""
    lack = torch.cuda.OutOfMemoryError("CUDA out of memory")
    invalid = RuntimeError("operation failed due to a previous error during capture")
    invalid.__context__ = lack

    class NotRecorded(Step):
        failure = None

        def advance(self, batch, lr, *, last):
            parts = super().advance(batch, lr, last=last)
            self.failure = errors.pop(0)
            return parts

    monkeypatch.setattr("fastimae.engine.build_step.GraphedStep", NotRecorded)
    monkeypatch.setattr("fastimae.engine.build_step.wants_graph", lambda *_: True)
    options = BenchOptions(model="mae_vit_nano_patch8", input_size=32, batch_size=2)
    errors = [None, RuntimeError("not permitted while capturing"), lack, invalid]
    with measure.build_loader(settings(options, CPU), World(0, 1, CPU)) as loader:
        batch = next(iter(loader))
    train = measure.training_step(settings(options, CPU), CPU)
    train(batch), train(batch)
    for _ in range(2):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            train(batch)
    errors = [lack]
    assert bench([*SMALL, "--seconds", "0.2", "--device", "cpu"]) == 2
    assert "error: --batch_size 16 does not fit into the GPU's memory" in capsys.readouterr().err


def test_workers_are_tried_up_to_the_cores(monkeypatch):
    monkeypatch.setattr(command, "usable_cores", lambda: 8)
    monkeypatch.setattr(command, "loader_speed", lambda config, *_: speed(config.data.num_workers))
    config = settings(BenchOptions(num_workers=4), CPU)
    tried = command.try_workers(config, CPU, 1, lambda: 1.0)
    assert {n: one.img_per_s for n, one in tried.items()} == {1: 1, 2: 2, 8: 8}


def taking(clock, seconds):
    """Batches, each of which comes after so many seconds."""
    while True:
        clock.passes(seconds)
        yield None


def test_waiting_is_told_from_working(clock):
    config = settings(BenchOptions(batch_size=32), CPU)
    one = measure._speed(config, CPU, taking(clock, 3), lambda _: clock.passes(1), 2, 40)
    assert one.data_wait == 0.75 and one.img_per_s == 32 / 4


def test_waiting_for_the_gpu_is_no_waiting_for_data(monkeypatch, clock):
    monkeypatch.setattr(Throttle, "wait", lambda _: clock.passes(1))
    assert measure.throughput(print, taking(clock, 0.5), CPU, 6, skip=1) == (6, 2, 4)


@pytest.mark.parametrize(
    ("skip", "least", "seconds", "warm_up"),
    [(5, 1, 100, 5), (5, 1, 2.5, 3), (5, 4, 2.5, 4), (5, 1, 0.5, 1)],
    ids=["all", "as long", "least", "first"],
)
def test_a_warm_up_is_no_longer_than_the_measurement(skip, least, seconds, warm_up, clock):
    """Batches of a second: all to skip, or as many as take as long, but no fewer than `least`."""
    batches = taking(clock, 1)
    took, waited, count = measure.throughput(print, batches, CPU, seconds, skip=skip, least=least)
    assert clock.now == warm_up + took and took == waited == count >= 1


def test_i_mae_is_measured_with_a_teacher(monkeypatch):
    """The step calls an encoder that does not train, for each image of a mixture."""
    made = []
    monkeypatch.setattr(
        "fastimae.engine.build_step.Step", lambda objective, *_, **__: made.append(objective)
    )
    options = BenchOptions(objective="imae", model="mae_vit_nano_patch8", input_size=32)
    measure.training_step(settings(options, CPU), CPU)
    (objective,) = made
    assert objective.teacher is not None
    assert not any(p.requires_grad for p in objective.teacher.parameters())


def test_settings_are_those_of_a_training_run(tmp_path):
    options = BenchOptions(data=tmp_path / "f.beton", batch_size=48, precision="fp32")
    config = settings(options, CPU)
    assert config.data.ffcv == options.data and config.optim.batch_size == 48
    assert config.data.cache == "none"  # decoders are measured, of small data, too
    assert config.data.num_workers == usable_cores() and config.optim.precision == "fp32"
    without = changed(config, **data_settings(None))
    assert without.data.synthetic and without.data.ffcv is None
    with measure.build_loader(without, World(0, 1, CPU)) as loader:
        assert next(iter(loader)).images.shape == (48, 224, 224, 3)


def test_one_of_two_image_fields_is_measured_and_told_once(tmp_path, capsys):
    path = tmp_path / "two.beton"
    images = [("left", "image"), ("right", "image")]
    path.write_bytes(many_fields([*images, ("id", "int")], {"id": list(range(16))}))
    argv = [str(path), *SMALL, "--seconds", "0.2", "--device", "cpu"]
    assert bench(argv) == 2
    assert "choose one with --image_field NAME" in capsys.readouterr().err
    assert bench([*argv, "--image_field", "right"]) == 0
    text = capsys.readouterr()
    assert text.err.count(f"{path}: 16 images from its field right") == 1
    assert "no labels" not in text.err
    assert f"--ffcv {path} --image_field right " in text.out


def test_partners_are_found_in_any_batch(tmp_path):
    for size, group in ((48, 0), (64, 32)):
        options = BenchOptions(objective="imae", batch_size=size)
        config = settings(options, CPU)
        assert config.objective.mix_group == group
        suggested = command.suggestion(found(1, 1, 1), config)
        argv = [*suggested.split()[1:], "--output_dir", str(tmp_path)]
        assert parse_training("fastimae-train", argv).objective.mix_group == group


@pytest.mark.parametrize(
    "argv",
    [
        ["--objective", "imae", "--batch_size", "1"],
        ["FILE", "--batch_size", "64"],
        ["FILE", "--input_size", "30"],
        ["--image_field", "x"],
        ["FOLDER"],
    ],
    ids=["alone", "few", "size", "field", "folder"],
)
def test_no_error_takes_another_commands_flag_for_ones_own(tmp_path, argv, capsys):
    path = tmp_path / "few.beton"
    path.write_bytes(many_fields([("image", "image")], {}))
    given = {"FILE": str(path), "FOLDER": str(tmp_path)}
    assert bench([given.get(word, word) for word in argv] + ["--device", "cpu"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    lacking = set(re.findall(r"--\w+", error)) - set(flags_of(BenchOptions))
    owner = re.search(r"\(([^()]*): only in fastimae-train\)$", error)
    assert lacking == set(re.findall(r"--\w+", owner[1] if owner else ""))


def test_a_dataset_in_place_of_a_beton(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "import numpy as np\n\ndef train():\n    return [np.zeros((40, 40, 3), np.uint8)] * 64\n"
    )
    flags = "--dataset own.py:train --model mae_vit_nano_patch8 --input_size 32 --batch_size 8"
    assert bench(f"{flags} --num_workers 1 --device cpu --seconds 1".split()) == 0
    said = capsys.readouterr().out
    assert "loader alone" in said and "suggested: fastimae-train --dataset own.py:train" in said
    (tmp_path / "some.beton").touch()
    assert bench(["some.beton", *flags.split()]) == 2
