"""Other people's files and models: checkpoints of MAE, i-MAE, timm and Hugging Face."""

from fastimae.interop.layouts import detect
from fastimae.interop.load import load_model

__all__ = ["detect", "load_model"]
