"""`accelerate` leaves methods alone whose behaviour may change later, and names the reason.

Random trials cannot see it, so each model is compared with a copy that was not accelerated, before
and after the change.
"""

import math
import os
import random
import time

import numpy
import pytest
import torch
import torch.nn.functional as F
from interop import changing_maes as zoo
from interop.twins import ATTENTION, assert_alike, differs, setting, twins
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastimae.foreign_models.stateless_values import is_operation


def fill(model):
    model.weight.fill_(0.5)


LEFT = {
    "loss attribute": (zoo.RampedLoss, setting("weight", 0.5), "forward_loss", "self.weight"),
    "loss helper": (zoo.RampedInHelper, setting("weight", 0.5), "forward_loss", "self.weight"),
    "loss comprehension": (
        zoo.RampedInComprehension, setting("weight", 0.5), "forward_loss", "self.weight",
    ),
    "loss buffer": (zoo.RampedBuffer, fill, "forward_loss", "self.weight"),
    "loss by name": (zoo.RampedByName, setting("weight", 0.5), "forward_loss", "passes self on"),
    "loss in dict": (zoo.RampedInDict, setting("weight", 0.5), "forward_loss", "self.__dict__"),
    "loss in class": (
        zoo.RampedInClass, lambda _: setattr(zoo.RampedInClass, "weight", 0.5), "forward_loss",
        "passes self on|uses type",
    ),
    "loss shared": (
        zoo.RampedShared, lambda _: zoo.SHARED.update(weight=0.5), "forward_loss", "SHARED",
    ),
    "loss options": (
        zoo.RampedOptions, lambda _: setattr(zoo.OPTIONS, "weight", 0.5), "forward_loss", "OPTIONS",
    ),
    "loss default": (
        zoo.RampedDefault,
        lambda _: zoo.RampedDefault.forward_loss.__defaults__[0].update(weight=0.5),
        "forward_loss", "state in its defaults",
    ),
    "loss decorator": (
        zoo.RampedDecorator,
        lambda _: setattr(zoo.RampedDecorator.forward_loss, "weight", 0.5),
        "forward_loss", "decorated",
    ),
    "loss property": (zoo.RampedProperty, setting("epoch", 1), "forward_loss", "self.patch_size"),
    "loss by hand": (zoo.RampedByHand, lambda _: None, "random_masking", "__getattr__"),
    "loss all-reduced": (zoo.AllReducedLoss, lambda _: None, "forward_loss", "torch.distributed"),
    "loss counting": (zoo.CountingLoss, lambda _: None, "forward_loss", "passes self on|calls"),
    "mask": (zoo.CurriculumMask, setting("epoch", 5), "random_masking", "self.epoch"),
    "blocks": (zoo.SkippedBlocks, lambda m: setattr(m.blocks[0], "skip", True), "forward_encoder",
               "skip"),
    "decoder": (zoo.NoisyDecoder, setting("noise", 0.1), "forward_decoder", "self.noise"),
    "attention": (
        lambda: zoo.with_attention(zoo.SoftAttention),
        lambda m: setattr(m.blocks[0].attn, "temperature", 2.0), ATTENTION, "self.temperature",
    ),
    "attention kept": (
        lambda: zoo.with_attention(zoo.KeepingAttention), lambda _: None, ATTENTION, "self.seen",
    ),
    "patches": (
        lambda: zoo.with_patches(zoo.DroppingPatches),
        lambda m: setattr(m.patch_embed, "drop", 0.5), "forward_encoder", "self.drop",
    ),
    "low rank": (
        lambda: zoo.with_patches(zoo.LowRankPatches),
        lambda m: m.patch_embed.proj.more.data.fill_(1.0), "forward_encoder", "LowRank",
    ),
}  # fmt: skip
SILENT = {
    "loss by hand",
    "loss all-reduced",
    "loss counting",
    "attention kept",
}


@pytest.fixture
def restored():
    """Undo what a case sets outside its model."""
    yield
    zoo.SHARED["weight"] = zoo.OPTIONS.weight = zoo.RampedInClass.weight = 0.0
    zoo.RampedDecorator.forward_loss.weight = 0.0
    zoo.RampedDefault.forward_loss.__defaults__[0]["weight"] = 0.0


@pytest.mark.parametrize("case", LEFT)
def test_what_may_change_later_is_left_alone_and_named(case, imgs, restored):
    build, switch, part, words = LEFT[case]
    plain, model = twins(build)
    why = model.fastimae_report.left
    assert part in why and any(word in why[part] for word in words.split("|")), why
    assert "forward_decoder" in {*why, *model.fastimae_report.swapped}
    before = assert_alike(plain, model, imgs)
    with torch.no_grad():
        for one in (plain, model):
            switch(one)
    after = assert_alike(plain, model, imgs)
    assert case in SILENT or differs(before, after), "the switch does something"


@pytest.mark.parametrize(
    "operation",
    [
        torch.argsort, torch.gather, torch.ones, torch.einsum, torch.cat, torch.rand, torch.where,
        torch.arange, torch.float32, torch.no_grad, F.mse_loss, F.layer_norm, F.softmax, math.sqrt,
        numpy.sqrt, nn.GELU, torch.linalg.norm,
    ],
    ids=lambda value: getattr(value, '__name__', str(value)),
)  # fmt: skip
def test_operations_are_known(operation):
    assert is_operation(operation)


@pytest.mark.parametrize(
    "stateful",
    [
        torch.is_grad_enabled, torch.get_default_dtype, torch.autocast, torch.compile,
        torch.manual_seed, torch.distributed.get_rank, torch.cuda.is_available, checkpoint,
        random.random, numpy.random.rand, time.time, print, os.environ, torch, object(),
    ],
    ids=lambda value: getattr(value, '__name__', type(value).__name__),
)  # fmt: skip
def test_stateful_functions_are_not_operations(stateful):
    assert not is_operation(stateful)
