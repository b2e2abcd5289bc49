"""Which implementation the MLP uses: tables per architecture, the flag and the variable."""

import json
import logging
import shutil
import sys

import pytest
import torch

from fastimae.arguments import parse_training
from fastimae.build import build_objective
from fastimae.kernels import _launch, _tables, mlp, set_default_impl
from fastimae.kernels import _mlp_choice as tables
from fastimae.kernels._mlp_choice import choose
from fastimae.settings import ConfigError

OP = sys.modules["fastimae.kernels.mlp"]
"""The module, as the package's attribute of that name is the op."""
GPU = torch.device("cuda")
MODEL = "--synthetic --model mae_vit_nano_patch16 --input_size 32"


class OnCuda(torch.Tensor):
    """The attributes of a GPU tensor that the choice depends on."""

    is_cuda, device = True, GPU


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.delenv("FASTIMAE_MLP", raising=False)
    monkeypatch.setattr(tables, "capability", lambda device: (9, 0))
    monkeypatch.setattr(OP, "_PLAIN", (*OP._PLAIN, OnCuda))
    _launch._log_once.cache_clear()
    yield
    torch.set_autocast_enabled("cuda", False)
    monkeypatch.delenv("FASTIMAE_MLP", raising=False)
    set_default_impl("auto")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Copy the tables to a folder that is read instead."""
    for path in _tables.FOLDER.glob("mlp_sm*.json"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(_tables, "FOLDER", tmp_path)
    tables.table_for.cache_clear()
    yield tmp_path
    tables.table_for.cache_clear()


def change(path, rows, width, /, **fields):
    """Change fields in the row of one measured shape."""
    content = json.loads(path.read_text())
    (row,) = [r for r in content["rows"] if (r["rows"], r["width"]) == (rows, width)]
    row.update(fields)
    path.write_text(json.dumps(content))


def on_cuda(rows, width, dtype=torch.bfloat16):
    """Return x, weights and biases of an MLP."""
    hidden = 4 * width
    shapes = (rows, width), (hidden, width), (hidden,), (width, hidden), (width,)
    return [torch.empty(*shape, dtype=dtype).as_subclass(OnCuda) for shape in shapes]


def by_triton(inputs, impl="auto"):
    return OP._by_triton(*inputs, impl=impl)


@pytest.mark.parametrize("architecture", [(8, 0), (9, 0), (10, 0)])
def test_the_committed_tables_cover_every_shape(architecture, monkeypatch):
    monkeypatch.setattr(tables, "capability", lambda device: architecture)
    for rows in (0, 1, 2048, 12800, 50432, 10**6):
        for width in (8, 192, 512, 768, 1024, 1280, 4096):
            row = choose(rows, width, GPU)
            assert row.use in ("triton", "torch") and row.forward.columns % tables.PIECE == 0


@pytest.mark.parametrize(
    ("capability", "file"),
    [((7, 5), 80), ((8, 0), 80), ((8, 9), 80), ((9, 0), 90), ((10, 3), 100), ((12, 0), 100)],
)
def test_a_device_uses_the_table_of_the_latest_architecture_up_to_its_own(
    capability, file, folder, monkeypatch
):
    for number in (80, 90, 100):
        path = folder / f"mlp_sm{number}.json"
        change(path, 12800, 768, use="triton", forward=[128, 128, 32, 8, number])
    monkeypatch.setattr(tables, "capability", lambda device: capability)
    assert choose(12800, 768, GPU).forward.stages == file
    assert choose(12800, 768, GPU).use == ("triton" if capability >= (8, 0) else "torch")
    assert tables.has_descriptors(GPU) == (capability >= (9, 0))


def test_a_shape_uses_the_next_width_and_the_nearest_rows(folder):
    path = folder / "mlp_sm90.json"
    change(path, 12800, 768, forward=[128, 128, 64, 4, 7])
    change(path, 51200, 768, forward=[128, 128, 64, 4, 8])
    for rows, width, stages in (
        (12800, 768, 7), (1, 768, 7), (25000, 520, 7), (26000, 768, 8), (10**6, 640, 8),
    ):  # fmt: skip
        assert choose(rows, width, GPU).forward.stages == stages, (rows, width)
    assert choose(12800, 512, GPU).forward.stages < 7
    assert choose(12800, 2048, GPU) == choose(8320, 1280, GPU)


def test_the_table_decides_what_runs_and_how(folder, monkeypatch):
    path = folder / "mlp_sm90.json"
    shapes = {"forward": [64, 128, 32, 8, 5], "backward": [128, 64, 16, 4, 6]}
    change(path, 2048, 192, use="triton", **shapes)
    change(path, 16640, 192, use="torch")
    assert by_triton(on_cuda(2048, 192)) and not by_triton(on_cuda(16640, 192))

    launched = []
    monkeypatch.setattr(OP.kernel, "launch", lambda *_, **settings: launched.append(settings))
    inputs = [
        torch.zeros_like(one.as_subclass(torch.Tensor)).half().requires_grad_()
        for one in on_cuda(16, 8)
    ]
    mlp(*inputs, impl="triton").sum().backward()
    names = "ROWS", "COLUMNS", "INNER", "num_warps", "num_stages"
    found = [[one[name] for name in names] for one in launched]
    assert found == list(shapes.values())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use": "cublas"}, "invalid use"),
        ({"forward": None}, "argument after"),
        ({"backward": [128, 128, 64, 8]}, "missing 1 required"),
        ({"backward": [128, 512, 64, 8, 3]}, "forward or backward"),
        ({"forward": [96, 128, 64, 8, 3]}, "forward or backward"),
        ({"forward": [128, 128, 48, 8, 3]}, "forward or backward"),
        ({"forward": [128, 128, 64.0, 8, 3]}, "forward or backward"),
        ({"forward": [128, 128, 64, 3, 3]}, "forward or backward"),
        ({"forward": [128, 128, 64, 8, 0]}, "forward or backward"),
        ({"rows": 51200}, "exactly one row"),
        ({"rows": 0}, "rows or width"),
    ],
)
def test_a_broken_row_is_an_error_that_names_the_file(fields, words, folder):
    change(folder / "mlp_sm90.json", 12800, 768, **fields)
    with pytest.raises(ValueError, match=rf"mlp_sm90\.json is not a valid mlp table .*{words}"):
        choose(12800, 768, GPU)


def test_an_empty_or_missing_table_is_an_error(folder):
    path = folder / "mlp_sm90.json"
    path.write_text('{"rows": []}')
    with pytest.raises(
        ValueError, match=r"mlp_sm90\.json is not a valid mlp table .*exactly one row"
    ):
        choose(1, 8, GPU)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"no mlp_sm\*\.json in .*: reinstall fastimae"):
        choose(1, 8, GPU)


def test_torch_runs_what_the_kernels_do_not_support_without_a_message(caplog, monkeypatch):
    served = on_cuda(12800, 768)
    quantised = [served[0], served[1].as_subclass(type("InFp8", (OnCuda,), {})), *served[2:]]
    assert by_triton(served) and not by_triton(quantised)
    assert not by_triton(on_cuda(12800, 768, torch.float32))
    assert not by_triton([on_cuda(12800, 768, torch.half)[0], *served[1:]])
    torch.set_autocast_enabled("cuda", True)
    assert not by_triton(served)
    assert caplog.messages == []


def preferences(monkeypatch, by):
    """Set an implementation by flag or by environment variable."""

    def by_flag(choice):
        build_objective(parse_training("fastimae-train", [*MODEL.split(), "--mlp", choice]))

    def by_variable(choice):
        monkeypatch.setenv("FASTIMAE_MLP", choice)

    return {"flag": by_flag, "variable": by_variable}[by]


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_one_implementation_can_be_the_default(by, folder, monkeypatch, caplog):
    """Only for this op, and where it can run; an explicit `impl` takes precedence."""
    change(folder / "mlp_sm90.json", 2048, 192, use="torch")
    set_to = preferences(monkeypatch, by)
    faster, slower = on_cuda(12800, 768), on_cuda(2048, 192)
    unserved = on_cuda(2048, 192, torch.float32)
    for choice, expected in {
        "auto": (True, False, False),
        "triton": (True, True, False),
        "torch": (False, False, False),
    }.items():
        set_to(choice)
        assert tuple(map(by_triton, (faster, slower, unserved))) == expected, choice
        assert by_triton(slower, "triton") and not by_triton(faster, "torch")
        assert _launch.use_triton("another op", "auto", faster[0])
        assert _launch.default_impl("attention") == "auto"
    with caplog.at_level(logging.WARNING, "fastimae"):
        set_to("triton")
        for _ in range(2):
            assert not by_triton(unserved)
    assert caplog.messages == ["mlp runs in torch instead of Triton: its dtypes are torch.float32"]


def test_an_unknown_implementation_is_an_error(monkeypatch):
    with pytest.raises(ConfigError, match="--mlp has no effect with --kernels torch"):
        parse_training("t", [*MODEL.split(), "--kernels", "torch", "--mlp", "triton"])
    with pytest.raises(ValueError, match="mlp 'sdpa' is not one of auto, triton, torch"):
        set_default_impl("auto", mlp="sdpa")
    monkeypatch.setenv("FASTIMAE_MLP", "fast")
    expected = "FASTIMAE_MLP=fast is not one of auto, triton, torch"
    with pytest.raises(ValueError, match=expected):
        mlp(*(one.as_subclass(torch.Tensor) for one in on_cuda(2, 8)))
    with pytest.raises(ValueError, match=expected):  # before a run begins
        build_objective(parse_training("t", MODEL.split()))


@pytest.mark.parametrize("choice", ["auto", "triton", "torch"])
def test_a_default_compiles(choice, monkeypatch):
    """Run Triton on the CPU, in its interpreter, which the default may select."""
    monkeypatch.setenv("FASTIMAE_MLP", choice)
    shapes = (9, 16), (32, 16), (32,), (16, 32), (16,)
    inputs = [torch.randn(*shape, dtype=torch.half) for shape in shapes]
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    expected = mlp(*inputs, impl="triton" if choice == "triton" else "torch")
    assert torch.equal(compiled(*inputs), expected)


def test_the_choice_compiles_for_any_number_of_rows(folder):
    change(folder / "mlp_sm90.json", 51200, 768, use="torch")

    @torch.compile(fullgraph=True, backend="eager")
    def chosen(x):
        return x + 1 if choose(x.shape[0], 768, GPU).use == "triton" else x - 1

    for rows, expected in ((12800, 1), (51200, -1), (100, 1), (40000, -1)):
        assert chosen(torch.zeros(rows, 1)).eq(expected).all(), rows
