"""docs/other_trainers.md: its changes are those of tests/trainers, few, and they train the same."""

import difflib
import importlib.util
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from interop.foreign_maes import SIZE, PaperMAE
from PIL import Image
from torchvision.transforms.v2.functional import normalize, to_dtype

from fastimae.loaders import DevicePrefetch, NormalizedPairs, create_loader

TRAINERS = Path(__file__).parent / "trainers"
PAGE = Path(__file__).parent.parent / "docs/other_trainers.md"
NAMES = sorted(path.stem for path in (TRAINERS / "before").glob("*.py"))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = ("before", "after")
QUIET = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}


def changes(name):
    """Return the lines of a unified diff, without those that say where it is."""
    texts = [(TRAINERS / side / f"{name}.py").read_text().splitlines() for side in SIDES]
    lines = list(difflib.unified_diff(*texts, n=1, lineterm=""))[2:]
    return [line for line in lines if not line.startswith("@@")]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_the_changes_and_they_are_few(name):
    shown = re.search(rf"<!-- diff: {name} -->\n```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown[1].splitlines() == changes(name)
    assert 2 <= sum(line.startswith("+") and len(line) > 1 for line in changes(name)) <= 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(12):
        file = path / f"{number % 2}/{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(file)
    return path


def run(side, name, folder):
    """Run a trainer for three epochs of three steps; return its losses."""
    if name in ("lightning_module", "accelerate_loop"):
        pytest.importorskip(name.split("_")[0])
    spec = importlib.util.spec_from_file_location(name, TRAINERS / side / f"{name}.py")
    spec.loader.exec_module(trainer := importlib.util.module_from_spec(spec))
    args = types.SimpleNamespace(
        data_path=str(folder), input_size=SIZE, batch_size=4, epochs=3, lr=1e-2, device="cpu",
        rank=0, world_size=1, accum_iter=1, mask_ratio=0.75, amp=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = PaperMAE()
    torch.manual_seed(1)
    if name == "facebook_style":
        return trainer.main(model, args)
    return trainer.train(model, args, **(QUIET if name == "lightning_module" else {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_before_and_after(name, folder):
    before, after = (run(side, name, folder) for side in SIDES)
    assert len(before) == len(after) == 9
    for losses in (before, after):
        assert np.isfinite(losses).all() and np.mean(losses[-3:]) < np.mean(losses[:3])
    assert np.mean(after[:3]) == pytest.approx(np.mean(before[:3]), rel=0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_are_normalised_as_by_torchvision_and_epochs_follow(folder, dtype):
    settings = {"data_path": folder, "input_size": (SIZE,), "batch_size": 4, "num_workers": 0}
    with (
        create_loader(**settings) as loader,
        NormalizedPairs(create_loader(**settings), MEAN, STD, dtype=dtype) as pairs,
    ):
        assert len(pairs) == len(loader) == 3
        for epoch in (0, 1, 4):
            loader.set_epoch(epoch)
            if epoch == 4:
                pairs.sampler.set_epoch(epoch)
            for batch, (images, labels) in zip(loader, pairs, strict=True):
                floats = to_dtype(batch.images.permute(0, 3, 1, 2), torch.float32, scale=True)
                expected = normalize(floats, MEAN, STD).to(dtype)
                assert images.dtype == dtype and images.is_contiguous()
                torch.testing.assert_close(
                    images, expected, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-5
                )
                assert torch.equal(labels, batch.labels)


def test_an_iteration_that_was_left_early_does_not_end_the_next(folder):
    settings = {"data_path": folder, "input_size": (SIZE,), "batch_size": 4, "num_workers": 0}
    with NormalizedPairs(create_loader(**settings), MEAN, STD) as pairs:
        next(iter(pairs))
        assert pairs.loader.epoch == 0 and len(list(pairs)) == 3 and pairs.loader.epoch == 1


@pytest.mark.parametrize("mean", [[0.5], [123.7, 116.3, 103.5], [-0.1, 0.5, 0.5]])
def test_statistics_of_other_channels_or_ranges_are_refused(folder, mean):
    settings = {"data_path": folder, "input_size": (SIZE,), "batch_size": 4, "num_workers": 0}
    with create_loader(**settings) as loader, pytest.raises(ValueError, match=r"of 3 channels"):
        NormalizedPairs(loader, mean, STD)


@pytest.mark.parametrize("taken", [0, 1, 3, 5])
def test_pairs_resume_within_an_epoch(folder, taken):
    """The trainer may set the epoch that it resumes in; attributes are a DataLoader's."""

    def pairs():
        settings = {"data_path": folder, "input_size": (SIZE,), "batch_size": 4, "num_workers": 0}
        return NormalizedPairs(DevicePrefetch(create_loader(**settings), "cpu"), MEAN, STD)

    with pairs() as loader:
        assert (loader.batch_size, len(loader.dataset)) == (4, 12)
        states, whole = [loader.state_dict()], []
        for _ in range(2):
            for images, _ in loader:
                states.append(loader.state_dict())
                whole.append(images)
    with pairs() as loader:
        for with_epoch in (True, False):
            list(loader)
            loader.load_state_dict(states[taken])
            if with_epoch:
                loader.sampler.set_epoch(taken // 3)
            rest = [images for images, _ in loader]
            wanted = whole[taken : 3 * (taken // 3 + 1)]
            assert len(rest) == len(wanted) and all(map(torch.equal, rest, wanted))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pairs_of_bands_have_the_range_of_their_type(dtype, tmp_path):
    white = np.iinfo(dtype).max
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.full((SIZE, SIZE, 2), [0, white], dtype))
    settings = {"data_path": tmp_path, "input_size": (SIZE,), "batch_size": 4, "num_workers": 0}
    loader = create_loader(**settings, in_chans=2)
    with pytest.raises(ValueError, match=r"std is one value in 0\.\.1 for each of 2 channels"):
        NormalizedPairs(loader, (0.5, 0.5), (0.5,))
    with NormalizedPairs(loader, (0.5, 0.5), (0.5, 0.25)) as pairs:
        images, labels = next(iter(pairs))
    assert torch.equal(images, torch.tensor([-1.0, 2.0]).view(2, 1, 1).expand(4, 2, SIZE, SIZE))
    assert labels.tolist() == [-1] * 4
