"""Which implementation runs an op: the request, what can run, and the log message."""

import logging

import pytest
import torch

from fastimae.arguments import parse_training
from fastimae.build import build_objective
from fastimae.kernels import _launch, latent_l2, set_default_impl

CPU = torch.zeros(2)


class OnCuda:
    is_cuda = True


@pytest.fixture(autouse=True)
def _clean():
    _launch._log_once.cache_clear()
    yield
    set_default_impl("auto")


def test_auto_uses_the_kernel_only_on_cuda():
    assert _launch.use_triton("op", "auto", OnCuda(), OnCuda())
    assert not _launch.use_triton("op", "auto", OnCuda(), CPU)
    assert not _launch.use_triton("op", "torch", OnCuda())
    assert _launch.use_triton("op", "triton", CPU)  # in the interpreter


def test_torch_can_be_the_default():
    set_default_impl("torch")
    assert not _launch.use_triton("op", "auto", OnCuda())
    assert _launch.use_triton("op", "triton", OnCuda())
    with pytest.raises(ValueError, match="kernels 'cuda' is not one of auto, torch"):
        set_default_impl("cuda")


def test_the_flag_makes_torch_the_default():
    flags = "--synthetic --model mae_vit_nano_patch16 --input_size 32 --kernels"
    build_objective(parse_training("fastimae-train", [*flags.split(), "torch"]))
    assert not _launch.use_triton("op", "auto", OnCuda())
    build_objective(parse_training("fastimae-train", [*flags.split(), "auto"]))
    assert _launch.use_triton("op", "auto", OnCuda())


def test_an_obstacle_is_logged_once_or_raised(caplog):
    with caplog.at_level(logging.WARNING, "fastimae"):
        for _ in range(3):
            assert not _launch.use_triton("op", "auto", OnCuda(), obstacle="too odd")
    assert caplog.messages == ["op runs in torch instead of Triton: too odd"]
    with pytest.raises(ValueError, match="op: impl='triton' cannot run: too odd"):
        _launch.use_triton("op", "triton", CPU, obstacle="too odd")


def test_what_cannot_run_is_named(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="not on a CUDA device"):
        latent_l2(CPU, CPU, impl="triton")
    monkeypatch.setattr(_launch, "triton", None)
    with pytest.raises(ValueError, match="triton is not installed"):
        latent_l2(CPU, CPU, impl="triton")
