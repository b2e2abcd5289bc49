"""Kernel launches, caught before they reach a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from triton.runtime.jit import JITFunction

from fastimae.kernels import _attention_choice, _launch, _mlp_choice
from tests.aot.models import AotCase
from tests.aot.tables import fingerprint

BULK = 0.1
"""Smallest share of a launch's bytes that makes a tensor bulk."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """A caught launch: the kernel, and what it was called with, options included."""

    kernel: JITFunction
    args: tuple[object, ...]
    options: Mapping[str, object]

    def given(self) -> dict[str, object]:
        """Return the kernel's arguments by name."""
        signature = self.kernel.signature
        named = {k: v for k, v in self.options.items() if k in signature.parameters}
        return signature.bind(*self.args, **named).arguments

    def bulk(self) -> set[str]:
        """Return the names of the pointers to bulk tensors."""
        tensors = {name: getattr(x, "base", x) for name, x in self.given().items()}
        sizes = {name: x.nbytes for name, x in tensors.items() if isinstance(x, Tensor)}
        return {name for name, size in sizes.items() if size >= BULK * sum(sizes.values())}

    def fingerprint(self) -> str:
        """Return the fingerprint of what will be compiled, see `tables`."""
        options = {k: v for k, v in self.options.items() if k not in self.kernel.arg_names}
        return fingerprint(self.kernel, self.given(), sorted(options.items()))


def distinct(cases: list[AotCase], archs: list[int]) -> Iterator[tuple[AotCase, Launch, int]]:
    """Yield the launches of the cases on each architecture, each that compiles differently once."""
    seen = set()
    for case, arch in itertools.product(cases, archs):
        if case.only_on is not None and arch not in case.only_on:
            continue
        with caught_launches(arch) as launches:
            _backward(case.call())
        if not launches:
            raise RuntimeError(f"{case.op} {case.name} launched no kernel")
        for launch in launches:
            key = (launch.fingerprint(), arch, str(case.narrow))
            if key not in seen:
                seen.add(key)
                yield case, launch, arch


@contextlib.contextmanager
def caught_launches(arch: int) -> Iterator[list[Launch]]:
    """Collect launches in a list, as on a GPU of this architecture. Ops take CPU tensors.

    Nothing reads their values: none is drawn, and products are not computed.
    """
    launches: list[Launch] = []

    def run(self, *args, grid, warmup, **options):
        launches.append(Launch(self, args, options))

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(torch, "randn", torch.empty),
        mock.patch.object(Tensor, "__matmul__", lambda a, b: a.new_empty(len(a), b.shape[1])),
        mock.patch.object(functional, "linear", lambda x, w, b: x.new_empty(len(x), len(w))),
        mock.patch.object(_launch, "interpreted", lambda: True),
        mock.patch.object(_attention_choice, "capability", lambda device: divmod(arch, 10)),
        mock.patch.object(_mlp_choice, "capability", lambda device: divmod(arch, 10)),
    ):
        yield launches


def _backward(outputs: object) -> None:
    for out in outputs if isinstance(outputs, tuple) else (outputs,):
        if isinstance(out, Tensor) and out.requires_grad:
            out.backward(torch.empty_like(out), retain_graph=True)
