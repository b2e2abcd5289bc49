"""A model and its accelerated copy, side by side."""

import copy
import functools

import torch
from interop.foreign_maes import SIZE

import fastimae
from fastimae.foreign_models.mae_methods import draw_key
from fastimae.foreign_models.mae_proofs import recorded_masks

ATTENTION = "blocks.0.attn"


def tried(model):
    """Accelerate a model, whatever the speed, and call it once."""
    fastimae.accelerate(model, measure=False)
    with torch.random.fork_rng([]):
        step(model, torch.randn(3, 3, SIZE, SIZE))
    return model


def is_swapped(module, name="forward"):
    """Return whether our method takes some calls of the module's."""
    site = vars(module).get(name)
    return site is not None and any(verdict.swapped for verdict in site.verdicts)


def twins(build):
    """Build a model and its accelerated copy."""
    plain = build()
    return plain, tried(copy.deepcopy(plain))


@functools.cache
def kept_twins(build):
    return twins(build)


def same_twins(build):
    """Return copies of the twins that this process has built once: trials take most of the time."""
    return copy.deepcopy(kept_twins(build))


def step(model, imgs):
    """Return outputs and gradients of a step."""
    model.zero_grad()
    outputs = model(imgs)
    outputs = [*outputs.values()] if isinstance(outputs, dict) else outputs
    outputs[0].backward()
    return [*outputs, *(p.grad for p in model.parameters() if p.requires_grad)]


def assert_alike(plain, model, imgs, run=step, **tolerance):
    """Check outputs and gradients for equality, with the same masks and random numbers."""
    torch.manual_seed(7)
    with recorded_masks(model) as drawn:
        ours = run(model, imgs)

    def repeat(x, *args):
        draw_key(x)
        ids_keep, ids_restore = drawn[0].ids_keep.long(), drawn[0].ids_restore.long()
        rows = x.gather(1, ids_keep[..., None].expand(-1, -1, x.shape[2]))
        return rows, (ids_restore >= ids_keep.shape[1]).float(), ids_restore

    if drawn:
        plain.random_masking = repeat
    torch.manual_seed(7)
    theirs = run(plain, imgs)
    if drawn:
        del plain.random_masking
    tolerance = {"rtol": 1e-4, "atol": 1e-6, **tolerance}
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    return theirs


def differs(before, after):
    return any(
        a.shape != b.shape or not torch.allclose(a, b)
        for a, b in zip(before, after, strict=True)
        if a is not None and b is not None
    )


def setting(name, value):
    return lambda model: setattr(model, name, value)


def setting_all(path, name, value):
    def switch(model):
        for module in model.modules():
            if hasattr(module, path):
                setattr(getattr(module, path), name, value)

    return switch


def louder(module, inputs, output):
    return 1.5 * output.roll(1, -1)  # a norm would undo the factor alone
