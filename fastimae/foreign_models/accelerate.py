"""`accelerate`, `restore`: FastIMAE's kernels in other models, where they are equal and pay."""

from __future__ import annotations

from torch import nn

from fastimae.foreign_models.first_call import FirstCall
from fastimae.foreign_models.installed import installed_in
from fastimae.foreign_models.mae_methods import STATE
from fastimae.foreign_models.part import Part
from fastimae.foreign_models.parts import PARTS
from fastimae.foreign_models.report import Report
from fastimae.foreign_models.site import Site, make_site
from fastimae.foreign_models.trial import Session


def accelerate(model: nn.Module, *, measure: bool = True, debug: bool = False) -> nn.Module:
    """Put FastIMAE's kernels into the parts of a model where they change nothing and pay.

    model: a masked autoencoder, a vision transformer, or anything that contains the kinds of
    modules in `parts.PARTS`: attention with timm's `qkv`, `proj` and `num_heads`; MLPs with the
    exact GELU; pre-norm blocks; MAE's methods (random_masking, forward_encoder, forward_decoder,
    forward_loss, also by the names that forks give them).

    A part is a candidate only if its method can be analysed and does nothing that may change later
    (`static_analysis`), and no hook, parametrization or replaced forward is on a module that would
    no longer be called. Its first eager call is a trial: original and replacement must give the
    same outputs and gradients (of inputs and parameters) on the inputs of that call, with the
    model's weights and with random ones, in the mode, number format and autocast of that call:
    within 1e-8 of the largest value in float64, 1e-4 in float32 (5e-3 on GPUs, for TensorFloat-32),
    1e-2 in float16, 5e-2 in bfloat16, 0.1 under autocast. Other shapes (batch size apart), formats,
    modes or plain arguments are tried when they first occur, up to 32 for a part.

    measure: also time both, forward and backward, on the batch of that call, and swap only what is
    surely 1.03 times as fast. This takes 0.4 s for each kind of part, up to 3 s or so on a busy
    machine, and processes may decide differently. False: swap everything that is equal, the same in
    every run and rank.
    debug: the first call of the model is also computed with the original methods, with the same
    masks and random numbers; AccelerationError names the outputs and gradients that differ.

    All that the analysis relied on is checked again in each call, in 1 to 20 microseconds per part.
    If it has changed (dropout, a hook on one module or on all, another method, class or constant),
    and for calls that a replacement does not support (an attention mask, mask_ratio=0, images that
    require a gradient), the original method runs; a change is logged once per part. Parameters and
    their names stay. Masks are as random as before, but not the same ones. The loss has no second
    derivative. Code that torch.compile traces before the first call is the original's, with a
    warning. A method that branches on the batch size is not detected. Replicas of nn.DataParallel
    run the original methods. `copy.copy(model)` shares what is installed: use copy.deepcopy.

    Returns the same object, with a `Report` as `model.fastimae_report`, which is logged after the
    model's first call. `restore` undoes it. Raises TypeError if nothing in the model is known.
    """
    restore(model)
    session, report = Session(measure), Report()
    for path, module in model.named_modules():
        for part in PARTS:
            _add(report, session, part, module, path)
    if not report.rows:
        kinds = ", ".join(part.name for part in PARTS)
        raise TypeError(f"{type(model).__name__} has no part that is known here: {kinds}")
    for site in report.sites:
        site.install()
    if "forward" not in vars(model):
        FirstCall(model, "forward", report, session, debug).install()
    model.fastimae_report = report
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo `accelerate`: every module has its own methods again, and nothing of ours is left.

    Returns the same object. A model that was not accelerated stays as it is.
    """
    for each in installed_in(model):
        each.remove()
    for module in model.modules():
        for name in (*STATE, "fastimae_report"):
            module.__dict__.pop(name, None)
    return model


def _add(report: Report, session: Session, part: Part, module: nn.Module, path: str) -> None:
    """Add the module's method that the part would replace to the report, or why it is left."""
    label = path
    try:
        name = part.recognise(module)
        if name is None or any(s.module is module and s.name == name for s in report.sites):
            return
        label = path if name == "forward" else f"{path}.{name}".strip(".")
        report.sites.append(make_site(part, module, name, path, session))
    except (TypeError, ValueError) as reason:
        if not any(_stands_for(site, module) for site in report.sites):
            report.refused[label or part.name] = str(reason)


def _stands_for(site: Site, module: nn.Module) -> bool:
    """Return whether the site's replacement leaves no use for another in the module."""
    bypassed = any(module is each for each, _ in site.preconditions.bypassed)
    return bypassed or (module is site.module and site.name == "forward")
