"""Forked processes as a launcher would start them, a tiny model, and a counter of collectives."""

import gc
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import parse_once
import scipy.special  # noqa: F401 - before processes are forked
import torch
import torch._dynamo  # before processes are forked: each would import it, in three seconds
import toy_images
from torch.utils._python_dispatch import TorchDispatchMode

from fastimae import build, cli
from fastimae.models import MaskedAutoencoder


def get_ready(commands: Iterable[str]) -> None:
    """Do once what each run would do: derive the parsers of these commands of fastimae-train.

    No run draws figures.
    """
    torch.set_num_threads(1)
    drawing = sys.modules[build.draw_fixed_images.__module__]
    drawing.draw_grid = toy_images.save_gray
    parse_once.install()
    for flags in commands:
        assert cli.train([*flags.split(), "--print_config"]) == 0
    gc.freeze()


def launch(folder: Path, name: str, size: int, work: Callable[[], int]) -> dict:
    """Fork `size` ranks with a launcher's environment; return their exit statuses and the time in
    seconds."""
    started, children = time.monotonic(), []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for rank in range(size):
        child = os.fork()
        if not child:
            output = (folder / f"{name}-{rank}.txt").open("w")
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            leave = (
                sys.exit if name == "mae_2" else os._exit
            )  # "mae_2" exits as programs do; the rest exit faster
            leave(finish(work))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"codes": codes, "seconds": time.monotonic() - started}


def finish(work: Callable[[], int]) -> int:
    try:
        return work()
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Reductions(TorchDispatchMode):
    """Counts all-reduces and reduce-scatters."""

    count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.count += op.namespace == "c10d" and "reduce" in str(op)
        return op(*args, **(kwargs or {}))


def tiny(heads: int) -> MaskedAutoencoder:
    return MaskedAutoencoder(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, heads=heads,
        decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2,
    )  # fmt: skip
