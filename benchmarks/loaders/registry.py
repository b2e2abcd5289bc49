"""All loaders under test by name, in the order of the table. A new one needs a line here."""

from __future__ import annotations

from benchmarks.loaders.base import LoaderUnderTest
from benchmarks.loaders.dali import (
    Dali,
    DaliCuda,
    DaliEngine,
    DaliLinear,
    DaliMixed,
    NativeAndDali,
)
from benchmarks.loaders.fastimae_loaders import FFCV, JpegFiles, Native, NativeOnDevice, Pillow
from benchmarks.loaders.other_decoders import SimpleJpeg, TorchCodec
from benchmarks.loaders.other_libraries import (
    FFCVLibrary,
    Torchvision,
    TorchvisionFloat,
    TorchvisionTensor,
)
from benchmarks.loaders.spdl import Spdl

LOADERS: dict[str, type[LoaderUnderTest]] = {
    "native": Native,
    "native_cuda": NativeOnDevice,
    "ffcv": FFCV,
    "pillow": Pillow,
    "dali": Dali,
    "dali_mixed": DaliMixed,
    "dali_mixed_hw0": DaliCuda,
    "dali_mixed_hw1": DaliEngine,
    "native_and_dali": NativeAndDali,
    "folder": JpegFiles,
    "dali_linear": DaliLinear,
    "ffcv_library": FFCVLibrary,
    "torchvision": Torchvision,
    "torchvision_float32": TorchvisionFloat,
    "torchvision_tensor": TorchvisionTensor,
    "simplejpeg": SimpleJpeg,
    "torchcodec": TorchCodec,
    "spdl": Spdl,
}
IN_BETON = tuple(LOADERS)
NEED_CUDA = ("native_cuda", "dali_mixed", "dali_mixed_hw0", "dali_mixed_hw1", "native_and_dali")
ON_ORIGINALS = ("native", "folder", "torchvision", "dali", "torchcodec", "spdl")
OVER_THREADS = ("native", "ffcv", "torchvision", "dali", "spdl")
