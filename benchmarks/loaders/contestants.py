"""All contestants by name, in the order of the table. Adding one: a class, and a line here."""

from __future__ import annotations

from benchmarks.loaders.contestant import Contestant
from benchmarks.loaders.dali import (
    Dali,
    DaliCuda,
    DaliEngine,
    DaliLinear,
    DaliMixed,
    NativeAndDali,
)
from benchmarks.loaders.ffcv_library import FFCVLibrary
from benchmarks.loaders.ours import FFCV, Folder, Native, NativeOnDevice, Pillow
from benchmarks.loaders.torchvision_folder import (
    Torchvision,
    TorchvisionFloat,
    TorchvisionTensor,
)

CONTESTANTS: dict[str, type[Contestant]] = {
    "native": Native,
    "native_cuda": NativeOnDevice,
    "ffcv": FFCV,
    "pillow": Pillow,
    "dali": Dali,
    "dali_mixed": DaliMixed,
    "dali_mixed_hw0": DaliCuda,
    "dali_mixed_hw1": DaliEngine,
    "native_and_dali": NativeAndDali,
    "folder": Folder,
    "dali_linear": DaliLinear,
    "ffcv_library": FFCVLibrary,
    "torchvision": Torchvision,
    "torchvision_float32": TorchvisionFloat,
    "torchvision_tensor": TorchvisionTensor,
}
IN_BETON = tuple(CONTESTANTS)
NEED_CUDA = (*("native_cuda", "dali_mixed", "dali_mixed_hw0", "dali_mixed_hw1", "native_and_dali"),)
ON_ORIGINALS = ("native", "folder", "torchvision", "dali")
OVER_THREADS = ("native", "ffcv", "torchvision", "dali")
