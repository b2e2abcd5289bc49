"""The labels of models side by side: what their trainings do not have alike."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import tiny_model

from fastimae.evaluate.candidates import Candidate, check_same_images
from fastimae.evaluate.differences import labels_of
from fastimae.objectives.choice import OBJECTIVES
from fastimae.settings import ConfigError


def candidate(name, *, heads=1, patch_size=8, img_size=32, in_chans=3, **args):
    model = tiny_model(heads=heads, patch_size=patch_size, img_size=img_size, in_chans=in_chans)
    return Candidate(name=name, path=Path(name), model=model, args=args)


def test_a_label_has_what_differs():
    same = {"mask_ratio": 0.75, "mask_patch_size": None, "objective": "mae"}
    assert labels_of([candidate("a", **same)]) == ["a"]
    assert labels_of([candidate("a", **same), candidate("b", **same)]) == ["a", "b"]
    units = [candidate("a", **same), candidate("b", **{**same, "mask_patch_size": 16})]
    assert labels_of(units) == ["a\nmask unit 8 px", "b\nmask unit 16 px"]
    ratios = [candidate(f"r{r}", objective="mae", mask_ratio=r) for r in (0.1, 0.25)]
    assert labels_of(ratios) == ["r0.1\ntrained 10% masked", "r0.25\ntrained 25% masked"]
    kinds = [
        candidate("mae", **same),
        candidate("r0", heads=2, objective="imae", mask_ratio=0.75, same_class_ratio=0.0),
        candidate("r1", heads=2, objective="imae", teacher="x", mask_ratio=0.75),
    ]
    assert labels_of(kinds) == [
        "mae\nMAE", "r0\ni-MAE, not distilled\nr = 0", "r1\ni-MAE, distilled",
    ]  # fmt: skip
    assert labels_of([candidate("a"), candidate("b", patch_size=4)]) == [
        "a\npatch 8 px", "b\npatch 4 px",
    ]  # fmt: skip
    sizes = [candidate("a", model="small", mask_ratio="0.5"), candidate("b", model="base")]
    assert labels_of(sizes) == ["a\nsmall", "b\nbase"]  # a ratio that is no number is not known
    larger = [candidate("a", mask_patch_size=16, img_size=40), candidate("b", img_size=40)]
    assert labels_of(larger) == ["a\nmask unit 16 px", "b\nmask unit 8 px"]


def test_the_kind_is_the_objective_and_what_is_known_of_it(monkeypatch):
    assert candidate("a").kind == candidate("a", objective="mae").kind == "MAE"
    assert candidate("a", heads=2).kind == "i-MAE"
    assert candidate("a", heads=2, mask_ratio=0.75).kind == "i-MAE, not distilled"  # no name
    headless = candidate("a", objective="imae", disentangle=False, teacher="mae.pth")
    assert headless.kind == "i-MAE without heads, distilled"
    assert headless.of_mixtures and not candidate("a", objective="mae").of_mixtures
    third = SimpleNamespace(load=lambda: SimpleNamespace(title="A third"))
    monkeypatch.setitem(OBJECTIVES, "third", third)
    assert candidate("a", objective="third").kind == "A third"
    assert candidate("a", objective="my.py:Own").kind == "Own"


def test_models_must_take_the_same_images():
    first = candidate("a")
    check_same_images([first])
    check_same_images([first, candidate("b", patch_size=4), candidate("c", heads=2)])
    for other, what in (
        (candidate("b", img_size=64), r"image size \(64, 64\) than --checkpoint a \(32, 32\)"),
        (candidate("b", in_chans=1), r"channels \(1\) than --checkpoint a \(3\)"),
    ):
        with pytest.raises(ConfigError, match=f"--others b has another {what}"):
            check_same_images([first, candidate("c"), other])
