"""DataLoaders with the fastest decoders of JPEGs for Python: simplejpeg and torchcodec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.loaders.base import need
from benchmarks.loaders.other_libraries import TorchvisionTensor

PEERS = "pip install 'fastimae[peers]'"


class SimpleJpeg(TorchvisionTensor):
    """simplejpeg has no resize: torchvision's of tensors is the fastest with Pillow's filter.

    Its settings are the defaults: `fastdct` and `fastupsample` save a few percent for other pixels,
    and `min_height` needs to know the window before it is drawn.
    """

    label = "DataLoader, simplejpeg, resize of tensors"
    what = "ImageFolder, simplejpeg, resize of tensors, uint8, worker processes"

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        need("simplejpeg", "simplejpeg", PEERS)

    def open_image(self) -> Callable[[str], Tensor]:
        from simplejpeg import decode_jpeg

        return lambda path: torch.from_numpy(decode_jpeg(Path(path).read_bytes())).permute(2, 0, 1)


class TorchCodec(TorchvisionTensor):
    """torchcodec, which torchvision's documentation names as the successor of its decoders.

    Images need none of FFmpeg's libraries.
    """

    label = "DataLoader, torchcodec, resize of tensors"
    what = "ImageFolder, torchcodec's decode_jpeg, resize of tensors, uint8, worker processes"

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        need("torchcodec.decoders", "torchcodec", PEERS)

    def open_image(self) -> Callable[[str], Tensor]:
        from torchcodec.decoders import decode_jpeg

        return lambda path: decode_jpeg(path, mode="RGB")
