"""--pseudo_labels: the file, which images it is of, and the pairs that follow from it."""

import dataclasses
import io
import itertools
import zipfile

import numpy as np
import pytest
from back_ends import QUICK

from fastimae.loaders import BetonReader, DataError, create_loader
from fastimae.loaders.backends.dali_source import find_jpegs
from fastimae.loaders.order.pseudo_labels import PseudoLabels
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings
from fastimae.loaders.sources.image_files import scan_folder

CLUSTERS = np.random.default_rng(1).permutation(np.repeat(np.arange(7), 6))  # of 42 images
PAIRED = {"same_class_ratio": 1.0, "batch_size": 4, "mix_group": 2}


def content(data, **changes) -> PseudoLabels:
    default = {
        "labels": CLUSTERS, "clusters": 7, "data": data, "images": "a.beton",
        "checkpoint": "mae.pth", "weights": "0123",
    }  # fmt: skip
    return PseudoLabels(**default | changes)


@pytest.fixture
def files(data, tmp_path):
    """Return the file for each kind of source of the same images: name of a back end -> path."""
    of_beton, of_folder = tmp_path / "beton.npz", tmp_path / "folder.npz"
    with BetonReader(data.beton) as reader:
        content(reader.identity()).write(of_beton)
    content(scan_folder(data.folder).identity()).write(of_folder)
    return lambda back_end: of_folder if "folder" in back_end else of_beton


def test_a_file_is_read_as_it_was_written_and_needs_no_pickle(tmp_path):
    written = content("abc", labels=np.array([3, -1, 0]))
    written.write(tmp_path / "a.npz")
    read = PseudoLabels.read(tmp_path / "a.npz")
    assert read.labels.dtype == np.int64 and read.labels.tolist() == [3, -1, 0]
    same = dataclasses.replace(read, labels=written.labels)
    assert same == written
    plain = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert plain["labels"].tolist() == [3, -1, 0] and plain["clusters"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_the_identity_is_that_of_the_images_in_their_order(data, tmp_path):
    with BetonReader(data.beton) as reader, BetonReader(data.beton, label_field="none") as blank:
        of_beton = reader.identity()
        assert blank.identity() == of_beton == find_jpegs(data.beton).identity()
    of_folder = scan_folder(data.folder).identity()
    assert find_jpegs(data.folder).identity() == of_folder
    (tmp_path / "elsewhere").symlink_to(data.folder)
    assert scan_folder(tmp_path / "elsewhere").identity() == of_folder
    for change in ("renamed", "exchanged", "one less"):
        copy = tmp_path / change.replace(" ", "_")
        for name, payload in zip(data.names, data.payloads, strict=True):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(payload)
        first, second = copy / data.names[0], copy / data.names[1]
        if change == "renamed":
            second.rename(second.with_name("001b.jpg"))
        elif change == "exchanged":
            first.write_bytes(data.payloads[1])
            second.write_bytes(data.payloads[0])
        else:
            second.unlink()
        assert scan_folder(copy).identity() != of_folder, change


@pytest.mark.parametrize("back_end", [b for b in QUICK if b[:7] not in ("dataset", "synthet")])
def test_every_mixture_at_ratio_1_shares_a_cluster(data, files, back_end):
    with data.loader(back_end, pseudo_labels=files(back_end), **PAIRED) as loader:
        batches = list(loader)
        assert loader.report()["same_class_ratio"] == 1.0
    seen = np.concatenate([batch.index for batch in batches])
    assert len(set(seen.tolist())) == 40
    for batch in batches:
        assert batch.labels.tolist() == CLUSTERS[batch.index].tolist()
        assert (batch.labels == batch.labels[batch.partner]).all()


def test_no_label_of_the_data_is_needed(data, files):
    paired = {**PAIRED, "pseudo_labels": files("beton")}
    with (
        data.loader("pillow-0", **paired) as labelled,
        data.loader("pillow-0", label_field="none", **paired) as unlabelled,
    ):
        assert data.same(list(labelled), list(unlabelled))


@pytest.mark.parametrize("world_size", [2, 4])
def test_partners_are_the_same_for_any_number_of_ranks(world_size):
    labels = content("x").of("x", 42, "a.beton", "a.npz")
    settings = LoaderSettings(batch_size=8, mix_group=2, same_class_ratio=0.5, seed=3)
    whole = Sampler(labels, settings)
    settings = dataclasses.replace(settings, batch_size=8 // world_size)
    ranks = [Sampler(labels, settings, rank=r, world_size=world_size) for r in range(world_size)]
    assert len(whole) == 5
    for number in range(len(whole)):
        expected, parts = whole.step(2, number), [rank.step(2, number) for rank in ranks]
        assert np.array_equal(np.concatenate([p.index for p in parts]), expected.index)
        partners = np.concatenate([p.index[p.partner] for p in parts])
        assert np.array_equal(partners, expected.index[expected.partner])


def test_images_that_could_not_be_read_share_a_label_of_their_own():
    labels = np.array([0, -1, 1, -1])
    of_file = content("x", labels=labels, clusters=2).of("x", 4, "a.beton", "a.npz")
    assert of_file.tolist() == [0, 2, 1, 2]


def resumed(data, path, state):
    with data.loader("pillow-0", pseudo_labels=path, **PAIRED) as loader:
        loader.load_state_dict(state)
        return list(loader)


def test_a_run_goes_on_exactly_and_not_with_other_clusters(data, files, tmp_path):
    with data.loader("pillow-0", pseudo_labels=files("beton"), **PAIRED) as loader:
        whole, states = [], []
        for batch in loader:
            whole.append(batch)
            states.append(loader.state_dict())
    assert data.same(resumed(data, files("beton"), states[3]), whole[4:])
    other = PseudoLabels.read(files("beton"))
    dataclasses.replace(other, labels=other.labels[::-1]).write(tmp_path / "other.npz")
    with pytest.raises(DataError, match="cannot resume within epoch 0 with other data"):
        resumed(data, tmp_path / "other.npz", states[3])
    moved = tmp_path / "moved.npz"
    moved.write_bytes(files("beton").read_bytes())
    assert data.same(resumed(data, moved, states[3]), whole[4:])


def test_a_file_of_other_images_is_refused(data, files, tmp_path):
    def error_of(path, **source):
        with pytest.raises(DataError) as error:
            create_loader(**source, pseudo_labels=path, **{**data.settings, **PAIRED})
        return str(error.value)

    beton = {"ffcv": data.beton}
    said = error_of(files("folder"), **beton)
    assert f"{files('folder')} is of other images than {data.beton}, or of another order" in said
    few = tmp_path / "few.npz"
    content("x", labels=CLUSTERS[:40]).write(few)
    assert f"{few} is of 40 images (a.beton), and {data.beton} has 42: run fastimae-eval clu" in (
        error_of(few, **beton)
    )
    missing = tmp_path / "missing.npz"
    assert f"{missing}: there is no such file" in error_of(missing, **beton)
    for source in ({"dataset": data.dataset()}, {"synthetic": True, "synthetic_samples": 42}):
        assert "labels of a .beton file or of a folder, not of --" in error_of(few, **source)
    with pytest.raises(DataError, match="--pseudo_labels has no effect without --same_class_ratio"):
        create_loader(ffcv=data.beton, pseudo_labels=files("beton"), **data.settings)


def test_damage_anywhere_is_noticed(tmp_path):
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    content("0123456789abcdef").write(good)
    data = good.read_bytes()
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 0x10
        bad.write_bytes(changed)
        try:
            read = PseudoLabels.read(bad)
        except DataError as error:
            assert str(bad) in str(error) and "\n" not in str(error)
        else:  # a byte of the archive that means nothing, such as a date
            assert read.labels.tolist() == CLUSTERS.tolist()
            assert (read.clusters, read.data) == (7, "0123456789abcdef")
    for size in (0, 10, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"bad\.npz is not a whole file of fastimae-eval"):
            PseudoLabels.read(bad)


def foreign():
    """Yield the content of files that are something else, and what is wrong with them."""
    right = {
        "labels": CLUSTERS.astype(np.int32), "clusters": np.array(7), "format": np.array(1),
        **{name: np.array("x") for name in ("data", "images", "checkpoint", "weights")},
    }  # fmt: skip
    yield "no label", {name: right[name] for name in right if name != "labels"}
    yield "no data", {name: right[name] for name in right if name != "data"}
    yield "a later format", {**right, "format": np.array(2)}
    yield "too large a label", {**right, "clusters": np.array(6)}
    yield "too small a label", {**right, "labels": right["labels"] - 2}
    yield "no numbers", {**right, "labels": CLUSTERS + 0.5}
    yield "rows", {**right, "labels": right["labels"].reshape(6, 7)}
    yield "no count", {**right, "clusters": np.array([7, 7])}
    yield "objects", {**right, "labels": np.array([{}], object)}


@pytest.mark.parametrize("arrays", [pytest.param(made, id=why) for why, made in foreign()])
def test_another_npz_is_no_file_of_labels(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=r"a\.npz (is not a whole file of|is damaged)"):
        PseudoLabels.read(tmp_path / "a.npz")


def test_other_files_are_no_file_of_labels(tmp_path):
    path = tmp_path / "a.npz"
    np.save(file := io.BytesIO(), CLUSTERS)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("labels.txt", "1")
    for data in (b"", b"text", file.getvalue(), zipped.getvalue()):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.npz (is not a whole file of|is damaged)"):
            PseudoLabels.read(path)
    with pytest.raises(DataError, match="there is no such file"):
        PseudoLabels.read(tmp_path)


def test_pairs_of_unequal_clusters_are_as_many_as_they_allow():
    """The ratio is met but for the odd image of a cluster."""
    labels = np.repeat(np.arange(4), [3, 5, 9, 23])
    sampler = Sampler(labels, LoaderSettings(batch_size=4, mix_group=2, same_class_ratio=1.0))
    order = sampler.plan(0).order.reshape(-1, 2)
    assert sum(labels[a] == labels[b] for a, b in order) == sum(n // 2 for n in (3, 5, 9, 23))
    assert len(set(itertools.chain(*order.tolist()))) == 40
