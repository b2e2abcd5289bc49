"""A user's own dataset or transform: the pixels of files, seeded code, labels, clear mistakes."""

import logging
import os
import random
import re
import signal
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from torchvision import transforms

from fastimae.cpus import usable_cores
from fastimae.loaders import DataError, create_loader
from fastimae.loaders.sources.user_dataset import known_labels
from fastimae.loaders.workers import worker_batches

SIZE = (16, 24)
SETTINGS = {"batch_size": 4, "input_size": SIZE, "seed": 3}
WHOLE = {"crop": "none", "hflip": False}


def pictures(count: int = 12, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Make images of noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, *size, 3), dtype=np.uint8))


class Drawing:
    """A dataset whose images depend on the global random generators of all three libraries."""

    def __init__(self, count: int = 12) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        image = np.full((*SIZE, 3), index, np.uint8)
        image[0, 0] = random.randrange(256), np.random.randint(256), int(torch.randint(256, ()))  # noqa: NPY002
        return image


def drawing_transform(image: Image.Image) -> Image.Image:
    """Darken, by a share that is drawn from torch's generator."""
    return image.point(lambda value: int(value * 0.9) - int(torch.randint(20, ())))


def batches(dataset=None, epoch=1, **settings):
    """Return all batches of an epoch."""
    source = {} if dataset is None else {"dataset": dataset}
    with create_loader(**source, **{**SETTINGS, "num_workers": 0, **settings}) as loader:
        loader.set_epoch(epoch)
        return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_of_files_gives_the_pixels_of_the_folder(data, workers):
    with data.loader("folder-0") as folder, data.loader(f"dataset-{workers}") as dataset:
        assert data.same(list(dataset), list(folder))
        assert dataset.state_dict()["samples"] == data.count


def test_results_do_not_depend_on_workers_ranks_or_resuming(data):
    """Though user code draws from global generators; nor do these generators change here."""
    both = {"dataset": Drawing(), "transform": drawing_transform, **WHOLE}
    random.seed(1), torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    alone = batches(**both, batch_size=6)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert data.same(batches(**both, batch_size=6, num_workers=2), alone)
    assert not torch.equal(batches(**both, epoch=2, batch_size=6)[0].images, alone[0].images)
    for rank in (0, 1):
        for batch, whole in zip(
            batches(**both, batch_size=3, mix_group=3, rank=rank, world_size=2), alone, strict=True
        ):
            assert torch.equal(batch.images, whole.images[3 * rank : 3 * rank + 3])
    with create_loader(**both, **{**SETTINGS, "batch_size": 6}, num_workers=1) as loader:
        loader.set_epoch(1)
        next(iter(loader))
        state = loader.state_dict()
    with create_loader(**both, **{**SETTINGS, "batch_size": 6}, num_workers=0) as loader:
        loader.load_state_dict(state)
        assert data.same(list(loader), alone[1:])


def test_the_number_of_workers_need_not_be_given():
    with create_loader(dataset=pictures(), **SETTINGS) as loader:
        assert loader.num_workers == usable_cores()


def test_copies_of_a_sample_are_drawn_anew():
    (batch, *_) = batches(Drawing(), repeated_aug=2, **WHOLE)
    first, second = batch.images[:2], batch.images[2:]
    assert batch.index[:2].tolist() == batch.index[2:].tolist()
    assert torch.equal(first[:, 1:], second[:, 1:]) and not torch.equal(first, second)


def test_other_data_of_the_same_length_are_noticed():
    images = pictures()
    with create_loader(dataset=images, num_workers=0, **SETTINGS) as loader:
        next(iter(loader))
        state = loader.state_dict()
    changed = [image.copy() for image in images]
    changed[7][3, 3] ^= 1
    with (
        create_loader(dataset=changed, num_workers=0, **SETTINGS) as loader,
        pytest.raises(DataError, match="other data"),
    ):
        loader.load_state_dict(state)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "form",
    [
        lambda image: image,
        lambda image: torch.from_numpy(image),
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: image.transpose(2, 0, 1),
        lambda image: Image.fromarray(image.squeeze()),
        lambda image: {"image": Image.fromarray(image.squeeze())},
        lambda image: (image, 5, "more"),
    ],
    ids=["array", "tensor", "tensor CHW", "array CHW", "PIL", "dict", "tuple"],
)
def test_every_form_of_an_item_gives_its_pixels(form, channels):
    images = [image[..., :channels] for image in pictures(4)]
    (batch,) = batches([form(image) for image in images], in_chans=channels, **WHOLE)
    for row, index in enumerate(batch.index):
        assert np.array_equal(batch.images[row], images[index])


LABELS = list(range(12))
HELD = TensorDataset(torch.from_numpy(np.stack(pictures())), torch.tensor(LABELS))


class Named(list):
    """A dataset with labels under other names."""

    def __init__(self, **names):
        super().__init__(pictures())
        vars(self).update(names)


def test_labels_come_from_where_they_are_first_known():
    for dataset, given in (
        (HELD, None),
        (Named(targets=LABELS), None),
        (Named(labels=torch.tensor(LABELS)), None),
        (Named(), np.array(LABELS)),
        (HELD, [label + 1 for label in LABELS]),
    ):
        for batch in batches(dataset, labels=given):
            more = 0 if given is None or isinstance(given, np.ndarray) else 1
            assert torch.equal(batch.labels, batch.index + more)
    assert (batches(Named())[0].labels == -1).all()
    assert (batches([(image, "a name") for image in pictures()])[0].labels == -1).all()


def test_a_fixed_batch_has_labels_that_only_the_items_have():
    with create_loader(dataset=HELD, num_workers=0, **SETTINGS) as loader:
        batch = loader.fixed_batch(10)
    assert torch.equal(batch.labels, batch.index) and len(batch) == 10


def test_labels_known_before_reading():
    whole = Named(targets=LABELS)
    assert known_labels(Subset(whole, [5, 2])).tolist() == [5, 2]
    assert known_labels(ConcatDataset([whole, Subset(whole, [1])])).tolist() == [*LABELS, 1]
    assert known_labels(ConcatDataset([whole, HELD])) is None
    for useless in ([{"boxes": 1}] * 12, [0.5] * 12, LABELS[:5], None, [[1], [1, 2]] * 6):
        assert known_labels(Named(targets=useless)) is None


def test_same_class_ratio_needs_labels_before_reading():
    halves = [label % 2 for label in LABELS]
    with create_loader(
        dataset=Named(targets=halves), same_class_ratio=1.0, num_workers=0, **SETTINGS
    ) as loader:
        for batch in loader:
            assert torch.equal(batch.labels, batch.labels[batch.partner])
    with pytest.raises(DataError, match=r"^--same_class_ratio needs the labels .* TensorDataset"):
        create_loader(dataset=HELD, same_class_ratio=1.0, num_workers=0, **SETTINGS)


def test_items_that_contradict_targets_win(caplog):
    """As with torchvision's target_transform."""
    dataset = Named(targets=LABELS)
    dataset[:] = [(image, label + 100) for image, label in zip(dataset, LABELS, strict=True)]
    (batch, *_) = batches(dataset)
    assert torch.equal(batch.labels, batch.index + 100)
    assert "sample 0 has the label 100, but" in caplog.text


def test_a_transform_changes_crops_of_files_and_beton(data):
    settings, plain = {**data.settings, "num_workers": 1}, data.epoch("folder-0", 0)
    for source in ({"data_path": data.folder}, {"ffcv": data.beton}, {"dataset": data.dataset()}):
        with create_loader(**source, **settings, transform=ImageOps.invert) as loader:
            for batch, before in zip(loader, plain, strict=True):
                assert torch.equal(batch.images, 255 - before.images)
                assert torch.equal(batch.labels, before.labels)
    with pytest.raises(DataError, match="needs images that Pillow decodes"):
        create_loader(synthetic=True, **settings, transform=ImageOps.invert)


class Failing(Drawing):
    """A dataset with samples that cannot be read."""

    def __getitem__(self, index: int) -> np.ndarray:
        if index in (2, 5):
            raise KeyError(f"row {index}")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_raises_is_replaced_and_named(workers, caplog):
    epoch = batches(Failing(), num_workers=workers, **WHOLE)
    used = torch.cat([batch.index for batch in epoch])
    assert len(used) == 12 and not {2, 5} & set(used.tolist())
    shown = torch.cat([batch.images[:, 1, 0, 0] for batch in epoch])
    assert torch.equal(shown.long(), used)
    assert re.search("sample 2 of Failing is replaced .*: KeyError: 'row 2'", caplog.text)


class Deadly(Drawing):
    """A dataset whose last sample kills its process."""

    def __getitem__(self, index: int) -> np.ndarray:
        if index == 10 and os.getpid() != MAIN:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


MAIN = os.getpid()


def test_a_process_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr(worker_batches, "POLL_SECONDS", 0.5)
    with pytest.raises(DataError, match="a loading process died") as caught:
        batches(Deadly(12), num_workers=1)
    assert "\n" not in str(caught.value)


class Opening(Drawing):
    """A dataset that opens its file at the first access, as those of HDF5 files do."""

    opened_by = None

    def __getitem__(self, index: int) -> np.ndarray:
        self.opened_by = self.opened_by or os.getpid()
        if self.opened_by != os.getpid():
            raise RuntimeError("its file was opened in another process")
        return super().__getitem__(index)


def test_workers_inherit_nothing_that_a_look_at_samples_has_opened():
    with create_loader(dataset=Opening(), num_workers=2, **SETTINGS) as loader:
        assert len(list(loader)) == 3 and not loader.bad


class Iterable(IterableDataset):
    def __iter__(self):
        return iter(pictures())


def test_mistakes_are_one_line_before_the_run():
    floats = transforms.ToTensor()
    for dataset, settings, said in (
        (Iterable(), {}, r"cannot be read by index, so .* fastimae-convert$"),
        (DataLoader([1]), {}, "give the dataset inside"),
        (UserDict(train=[1], test=[2]), {}, "a UserDict of train, test: give one of them"),
        ([], {}, "the list has no samples"),
        ([floats(image) for image in pictures()], {}, r"float32 \[3, 16, 24\] .* PILToTensor"),
        ([{"picture": 1}] * 9, {}, r"without the key image or img \(it has picture\)"),
        (["a.jpg"] * 9, {}, "a str is not an image"),
        ([np.zeros((8, 8, 2), np.uint8)] * 9, {}, "2 x uint8 pixels.* --in_chans is 3"),
        ([np.zeros((8, 9, 8), np.uint8)] * 9, {}, "either axis of 8 could be the channels"),
        ([np.zeros(8, np.uint8)] * 9, {}, "has not the shape"),
        (Failing(1), {"labels": [1, 2]}, "^--labels must be 1 whole numbers"),
        (pictures(), {"transform": floats}, "transform does not fit.*float32"),
        (pictures(), {"transform": lambda image: image.resize((5, 6))}, "6 x 5 pixels instead of"),
        (pictures(), {"transform": lambda _: 1 // 0}, "ZeroDivisionError"),
        (None, {"synthetic": True, "labels": [1]}, "labels are those of a dataset"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            batches(dataset, **settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"none of 2 samples .* number 0: KeyError: 'row 2'"):
        batches(Subset(Failing(), [2, 5]))


def test_what_cannot_be_sent_to_workers_is_named(monkeypatch, recwarn):
    """Where processes are not forked."""
    monkeypatch.setattr(worker_batches, "_START_METHOD", "spawn")
    dataset = Drawing()
    dataset.function = lambda: 0
    with pytest.raises(DataError, match=r"cannot be sent to worker processes \(.*num_workers 0$"):
        batches(dataset, num_workers=1)
    assert not [warning for warning in recwarn if "pickle" in str(warning.message)]


class OwnGenerator(Drawing):
    """A dataset that draws from a generator which nobody seeds."""

    def __getitem__(self, index: int) -> np.ndarray:
        return np.random.default_rng().integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def test_the_start_says_what_is_random(caplog):
    caplog.set_level(logging.INFO, "fastimae")
    for dataset, settings, said in (
        (Drawing(), {}, "its own random transform is applied first"),
        (Drawing(), WHOLE, None),
        (pictures(), {}, None),
        (OwnGenerator(), WHOLE, "runs cannot be repeated exactly"),
    ):
        caplog.clear()
        batches(dataset, **settings)
        random_lines = [line for line in caplog.messages if "random" in line]
        assert [said in line for line in random_lines] == ([True] if said else [])
    kind = "own dataset, labels as its samples have them"
    assert f"OwnGenerator: {kind}: 12 images\n" in caplog.text  # and not: no labels


SPECS = """
from test_dataset import Drawing, pictures

held = Drawing()

def train():
    return Drawing()

def fails():
    raise ValueError("no", "way")
"""


def test_a_dataset_is_named_by_its_function(tmp_path, monkeypatch, data):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/specs.py").write_text(SPECS)
    expected = batches(Drawing())
    file = "folder/specs.py"
    for spec in (
        f"{file}:train", f"{tmp_path}/{file}:held", f"{file}:Drawing", "folder.specs:train",
    ):  # fmt: skip
        assert data.same(batches(spec), expected)
    for spec, said in (
        (f"{file}:fails", r"fails\(\) failed \(ValueError: \('no', 'way'\)\)"),
        (f"{file}:missing", "has no function missing"),
        (f"{file}:pictures", None),
        ("folder/none.py:train", "none.py cannot be imported"),
        ("specs", "not of the form module:function or file.py:function"),
        (f"{file}:os", "has no function os"),
    ):
        if said:
            with pytest.raises(DataError, match=said) as caught:
                batches(spec)
            assert "\n" not in str(caught.value)
        else:
            batches(spec)
