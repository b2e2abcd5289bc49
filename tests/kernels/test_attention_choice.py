"""Which implementation attention uses: tables per architecture, the flag and the variable."""

import json
import logging
import shutil
import sys

import pytest
import torch

from fastimae.arguments import parse_training
from fastimae.build import build_objective
from fastimae.kernels import _attention_choice as tables
from fastimae.kernels import _launch, _tables, attention, set_default_impl
from fastimae.kernels._attention_choice import Pass, choose
from fastimae.settings import ConfigError

OP = sys.modules["fastimae.kernels.attention"]
"""The module, as the package's attribute of that name is the op."""
GPU = torch.device("cuda")
MODEL = "--synthetic --model mae_vit_nano_patch16 --input_size 32"


class OnCuda:
    """The attributes of a GPU tensor that the choice depends on."""

    is_cuda, device = True, GPU

    def __init__(self, tokens, width, dtype=torch.bfloat16):
        self.shape, self.dtype = (2, tokens, 3, 1, width), dtype


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.delenv("FASTIMAE_ATTENTION", raising=False)
    monkeypatch.setattr(tables, "capability", lambda device: (9, 0))
    _launch._log_once.cache_clear()
    yield
    monkeypatch.delenv("FASTIMAE_ATTENTION", raising=False)
    set_default_impl("auto")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Copy the tables to a folder that is read instead."""
    for path in _tables.FOLDER.glob("attention_sm*.json"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(_tables, "FOLDER", tmp_path)
    tables.table_for.cache_clear()
    yield tmp_path
    tables.table_for.cache_clear()


def change(path, tokens, width, /, **fields):
    """Change fields in the row of one measured shape."""
    content = json.loads(path.read_text())
    (row,) = [r for r in content["rows"] if (r["tokens"], r["head_dim"]) == (tokens, width)]
    row.update(fields)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("architecture", [(8, 0), (9, 0), (10, 0)])
def test_the_committed_tables_cover_every_shape(architecture, monkeypatch):
    monkeypatch.setattr(tables, "capability", lambda device: architecture)
    for tokens in (1, 50, 64, 65, 197, 256, 257, 785, 5000):
        for width in (8, 32, 40, 64, 80, 128, 256):
            row = choose(tokens, width, GPU)
            tile = tables.tile_of(tokens, width)
            assert (row.forward is None) == (row.backward is None) == (tile is None)
            assert tile is not None or row.use == "sdpa"
            assert tile is None or tile.keys >= tokens


@pytest.mark.parametrize(
    ("capability", "file"),
    [((7, 5), 80), ((8, 0), 80), ((8, 9), 80), ((9, 0), 90), ((10, 3), 100), ((12, 0), 100)],
)
def test_a_device_uses_the_table_of_the_latest_architecture_up_to_its_own(
    capability, file, folder, monkeypatch
):
    for number in (80, 90, 100):
        change(folder / f"attention_sm{number}.json", 50, 64, forward=[64, 8, number])
    monkeypatch.setattr(tables, "capability", lambda device: capability)
    assert choose(50, 64, GPU).forward == Pass(64, 8, file)
    assert choose(50, 64, GPU).use == ("triton" if capability >= (8, 0) else "sdpa")


def test_a_shape_uses_the_row_whose_tile_it_shares(folder):
    change(folder / "attention_sm90.json", 197, 32, forward=[64, 8, 7])
    same = [(129, 32), (197, 8), (256, 24)]
    others = [(128, 32), (257, 32), (197, 40)]
    assert all(choose(*shape, GPU).forward == Pass(64, 8, 7) for shape in same)
    assert all(choose(*shape, GPU).forward != Pass(64, 8, 7) for shape in others)


def test_the_table_decides_what_runs_and_how(folder, monkeypatch):
    path = folder / "attention_sm90.json"
    change(path, 50, 32, forward=[32, 2, 3], backward=[16, 8, 2, 4])
    change(path, 65, 64, use="sdpa", sdpa=["efficient", "cudnn"])
    assert OP._by_triton(OnCuda(50, 32), "auto") and not OP._by_triton(OnCuda(65, 64), "auto")
    names = [backend.name for backend in OP._priority(choose(65, 64, GPU))]
    assert names == ["EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"]

    launched = []
    monkeypatch.setattr(OP.kernel, "launch", lambda *_, **settings: launched.append(settings))
    qkv = torch.zeros(1, 50, 3, 1, 32, dtype=torch.half, requires_grad=True)
    attention(qkv, impl="triton").sum().backward()
    names = "QUERIES", "num_warps", "num_stages"
    assert [tuple(one[name] for name in names) for one in launched] == [(32, 2, 3), (16, 8, 2)]
    assert launched[1]["PARTS"] == 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use": "flash"}, "use or sdpa"),
        ({"sdpa": ["best"]}, "use or sdpa"),
        ({"forward": None}, "forward or backward"),
        ({"backward": [512, 8, 1]}, "forward or backward"),
        ({"backward": [64, 8]}, "missing 1 required"),
        ({"forward": [0, 8, 1]}, "forward or backward"),
        ({"forward": [8, 8, 1]}, "forward or backward"),
        ({"forward": [32.0, 8, 1]}, "forward or backward"),
        ({"forward": [32, 3, 1]}, "forward or backward"),
        ({"forward": [32, 8, 0]}, "forward or backward"),
        ({"forward": [32, 8, 1, 2]}, "forward must have 1 part"),
        ({"backward": [32, 8, 1, 3]}, "forward or backward"),
        ({"tokens": 60, "head_dim": 80}, "none for"),
        ({"tokens": "many"}, "is not a valid"),
    ],
)
def test_a_broken_row_is_an_error_that_names_the_file(fields, words, folder):
    path = folder / "attention_sm90.json"
    change(path, 197, 32, **fields)
    with pytest.raises(ValueError, match=rf"attention_sm90\.json .*{words}"):
        choose(50, 64, GPU)


def test_a_missing_or_broken_table_is_an_error(folder):
    path = folder / "attention_sm90.json"
    path.write_text("{")
    with pytest.raises(
        ValueError, match=r"attention_sm90\.json is not a valid attention table .JSON"
    ):
        choose(50, 64, GPU)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"no attention_sm\*\.json in .*: reinstall fastimae"):
        choose(50, 64, GPU)


def test_fp32_uses_sdpa_without_a_message(caplog):
    assert not OP._by_triton(OnCuda(50, 64, torch.float32), "auto")
    assert not OP._by_triton(OnCuda(197, 64), "auto")
    assert caplog.messages == []


def preferences(monkeypatch, by):
    """Set an implementation by flag or by environment variable."""

    def by_flag(choice):
        build_objective(parse_training("fastimae-train", [*MODEL.split(), "--attention", choice]))

    def by_variable(choice):
        monkeypatch.setenv("FASTIMAE_ATTENTION", choice)

    return {"flag": by_flag, "variable": by_variable}[by]


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_one_implementation_can_be_the_default(by, folder, monkeypatch, caplog):
    """Only for attention, and where it can run; an explicit `impl` takes precedence."""
    change(folder / "attention_sm90.json", 65, 64, use="sdpa")
    set_to = preferences(monkeypatch, by)
    short, measured_slower, long = OnCuda(50, 64), OnCuda(65, 64), OnCuda(197, 64)
    for choice, expected in {
        "auto": (True, False, False),
        "triton": (True, True, False),
        "sdpa": (False, False, False),
    }.items():
        set_to(choice)
        got = tuple(OP._by_triton(x, "auto") for x in (short, measured_slower, long))
        assert got == expected, choice
        assert OP._by_triton(short, "triton") and not OP._by_triton(short, "torch")
        assert _launch.use_triton("another op", "auto", short)
    with caplog.at_level(logging.WARNING, "fastimae"):
        set_to("triton")
        for tensor in (long, long, OnCuda(50, 64, torch.float32)):
            assert not OP._by_triton(tensor, "auto")
    reasons = (
        "197 tokens with heads of 64 channels do not fit in a tile",
        "its dtype is torch.float32",
    )
    said = [m for m in caplog.messages if m.startswith("attention runs in torch instead of Triton")]
    assert [message.split(": ")[1] for message in said] == list(reasons)


def test_the_flag_overrides_the_variable(monkeypatch):
    monkeypatch.setenv("FASTIMAE_ATTENTION", "sdpa")
    build = lambda flags: build_objective(parse_training("t", [*MODEL.split(), *flags.split()]))  # noqa: E731
    build("--attention auto")
    assert OP._by_triton(OnCuda(50, 64), "auto")
    build("")
    assert not OP._by_triton(OnCuda(50, 64), "auto")
    monkeypatch.setenv("FASTIMAE_ATTENTION", "triton")
    build("--kernels torch")
    assert not OP._by_triton(OnCuda(50, 64), "auto")


def test_an_unknown_implementation_is_an_error(monkeypatch):
    with pytest.raises(ConfigError, match="--attention has no effect with --kernels torch"):
        parse_training("t", [*MODEL.split(), "--kernels", "torch", "--attention", "triton"])
    with pytest.raises(ValueError, match="attention 'flash' is not one of auto, triton, sdpa"):
        set_default_impl("auto", "flash")
    monkeypatch.setenv("FASTIMAE_ATTENTION", "fast")
    expected = "FASTIMAE_ATTENTION=fast is not one of auto, triton, sdpa"
    with pytest.raises(ValueError, match=expected):
        attention(torch.zeros(1, 2, 3, 1, 8))
    with pytest.raises(ValueError, match=expected):  # before a run begins
        build_objective(parse_training("t", MODEL.split()))


def test_the_choice_compiles_for_any_length():
    @torch.compile(fullgraph=True, backend="eager")
    def attend(x):
        row = choose(x.shape[1], 64, GPU)
        with OP.sdpa_kernel(OP._priority(row), set_priority=True):
            return x + 1 if row.use == "triton" else x - 1

    for tokens, expected in ((50, 1), (197, -1), (65, 1), (300, -1)):
        assert attend(torch.zeros(1, tokens)).eq(expected).all(), tokens
    assert OP._priority(choose(50, 64, GPU))[0].name == "CUDNN_ATTENTION"


@pytest.mark.parametrize("choice", ["auto", "triton", "sdpa"])
def test_a_default_compiles(choice, monkeypatch):
    """Run Triton on the CPU, in its interpreter, which the default may select."""
    monkeypatch.setenv("FASTIMAE_ATTENTION", choice)
    qkv = torch.randn(2, 9, 3, 1, 16, dtype=torch.half)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    expected = attention(qkv, impl="triton" if choice == "triton" else "torch")
    assert torch.equal(compiled(qkv), expected)
