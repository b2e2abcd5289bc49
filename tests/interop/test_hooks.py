"""Hooks are never lost by `accelerate`.

They are registered before or after it, on parts that would no longer be called, on all modules, and
on parameters.
"""

import itertools

import pytest
import torch
from interop import changing_maes as zoo
from interop.foreign_maes import PaperMAE
from interop.twins import ATTENTION, assert_alike, differs, louder, same_twins, step, tried, twins
from torch import nn
from torch.nn.utils import parametrizations, prune


def quieter(module, inputs):
    return tuple(0.5 * x for x in inputs)


def doubled(module, grad_input, grad_output):
    return tuple(None if g is None else 2 * g for g in grad_input)


HOOKS = {
    "forward": lambda module: module.register_forward_hook(louder),
    "pre": lambda module: module.register_forward_pre_hook(quieter),
    "backward pre": lambda m: m.register_full_backward_pre_hook(lambda _, g: (2 * g[0],)),
    "a replaced forward": lambda m: louder_one(m),
}
OF_WEIGHTS = {
    "weight norm": nn.utils.weight_norm,
    "parametrized": parametrizations.spectral_norm,
    "pruned": lambda m: prune.random_unstructured(m, "weight", 0.5),
}


def louder_one(module):
    module.forward = Louder(module)


class Louder:
    """Replaces a module's forward; is copied with it."""

    def __init__(self, module):
        self.module = module

    def __call__(self, *args):
        return louder(self.module, args, type(self.module).forward(self.module, *args))


BYPASSED = {
    "patch_embed": "forward_encoder",
    "patch_embed.proj": "forward_encoder",
    "blocks.0.attn.attn_drop": ATTENTION,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("hook", "path"),
    [*itertools.product(HOOKS, BYPASSED), *((name, "patch_embed.proj") for name in OF_WEIGHTS)],
)
def test_hooks_on_parts_that_are_no_longer_called(hook, path, imgs):
    """Hooked before: the part is left alone, with a reason. After: the original method runs."""

    register = (HOOKS | OF_WEIGHTS)[hook]

    def hung():
        torch.manual_seed(3)
        model = PaperMAE()
        register(model.get_submodule(path))
        return model

    model = tried(hung())
    part = BYPASSED[path]
    assert part in model.fastimae_report.left, model.fastimae_report
    plain = hung()
    plain.load_state_dict(model.state_dict())
    assert_alike(plain, model, imgs, rtol=1e-3, atol=1e-5)

    _, later = same_twins(PaperMAE)
    assert part in later.fastimae_report.swapped
    torch.manual_seed(9)
    register(later.get_submodule(path))
    torch.manual_seed(9)
    plain = hung()
    plain.load_state_dict(later.state_dict())
    assert_alike(plain, later, imgs, rtol=1e-3, atol=1e-5)


def test_hooks_on_a_sequence_of_blocks(imgs):
    plain, model = twins(zoo.OneSequence)
    assert "forward_encoder" in model.fastimae_report.swapped
    before = assert_alike(plain, model, imgs)
    for one in (plain, model):
        one.blocks.register_forward_hook(louder)
    assert differs(before, assert_alike(plain, model, imgs))


@pytest.mark.parametrize(
    "register", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]
)
def test_hooks_on_all_modules(register, imgs):
    """A profiler registers such hooks to see every module."""
    plain, model = same_twins(PaperMAE)
    seen = []
    hook = getattr(nn.modules.module, f"register_module_{register}")(
        lambda module, *_: seen.append(type(module).__name__)
    )
    try:
        theirs = [step(plain, imgs), list(seen)][1]
        seen.clear()
        step(model, imgs)
        assert seen == theirs and "PlainPatches" in seen
    finally:
        hook.remove()
    assert_alike(plain, model, imgs)


def test_hooks_on_parameters_are_called(imgs):
    plain, model = same_twins(PaperMAE)
    for one in (plain, model):
        for parameter in one.parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda grad: 3 * grad)
    assert_alike(plain, model, imgs, atol=1e-5)
