"""The Python of docs/accelerate.md runs, and the table of kinds names what is recognised."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks.habits import TINY
from benchmarks.habits.paper_mae import PaperMAE
from fastimae.foreign_models.mae_methods import NAMES

TEXT = (Path(__file__).resolve().parents[3] / "docs/accelerate.md").read_text()


def test_the_code_runs():
    pytest.importorskip("timm")
    names = {"model": PaperMAE(TINY), "images": torch.randn(2, 3, TINY.img_size, TINY.img_size)}
    first, second = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(first, names)
    assert {"random_masking", "forward_encoder"} <= {
        row.part for row in names["model"].fastimae_report.rows
    }
    exec(second, names)
    assert not hasattr(names["model"], "fastimae_report")


def test_the_methods_of_forks_are_named():
    assert all(f"`{name}`" in TEXT for name in NAMES)
