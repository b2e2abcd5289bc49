"""The image and label of a WebDataset sample: the right one or none, never a wrong one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_files import HEIC, find, in_tar, jpeg, make_tar, reasons

from fastimae.loaders.errors import DataError

CASES = {
    "dotted-names": (
        "img.1.jpg img.1.cls=1 img.2.jpg img.2.cls=2",
        {"img.1.jpg": 1, "img.2.jpg": 2},
        {},
    ),
    "dotted-names-and-fields": (
        "img.1.rgb.jpg img.1.cls=1 img.2.rgb.jpg img.2.cls=2",
        {"img.1.rgb.jpg": 1, "img.2.rgb.jpg": 2},
        {},
    ),
    "label-of-another": ("img.1.jpg img.2.cls=2 x.jpg x.cls=0", {"x.jpg": 0}, {"img.1.jpg": "no"}),
    "one-label-for-two": (
        "img.1.jpg img.2.jpg img.cls=3 x.jpg x.cls=0",
        {"x.jpg": 0},
        {"img.1.jpg": "2 images for", "img.2.jpg": "2 images for"},
    ),
    "own-label-and-a-common-one": (
        "img.1.jpg img.1.cls=1 img.2.jpg img.cls=3",
        {"img.1.jpg": 1},
        {"img.2.jpg": "2 images for img.cls"},
    ),
    "field": ("0.input.jpg 0.cls=4", {"0.input.jpg": 4}, {}),
    "two-labels": ("0.a.b.jpg 0.cls=1 0.a.cls=2 x.jpg x.cls=0", {"x.jpg": 0},
                   {"0.a.b.jpg": "0.a.cls or 0.cls"}),
    "label-twice": ("0.jpg 0.cls=1 0.cls=1 x.jpg x.cls=0", {"x.jpg": 0}, {"0.jpg": "twice"}),
    "image-twice": ("0.jpg 0.cls=1 0.jpg x.jpg x.cls=0", {"x.jpg": 0}, {"0.jpg": "2 images for"}),
    "masks": (
        "a.jpg a.seg.png a.mask.png a.depth.exr a.cls=5 b.jpg b.seg.png b.cls=6",
        {"a.jpg": 5, "b.jpg": 6},
        {},
    ),
    "masks-of-dotted-names": (
        "a.1.jpg a.1.seg.png a.1.cls=5 a.2.jpg a.2.seg.png a.2.cls=6",
        {"a.1.jpg": 5, "a.2.jpg": 6},
        {},
    ),
    "two-sides": (
        "a.left.jpg a.right.jpg a.cls=5 x.jpg x.cls=0",
        {"x.jpg": 0},
        {"a.left.jpg": "2 images for a.cls", "a.right.jpg": "2 images for a.cls"},
    ),
    "two-extensions": (
        "a.jpg a.png a.cls=5 x.jpg x.cls=0",
        {"x.jpg": 0},
        {"a.jpg": "2 images for a.cls", "a.png": "2 images for a.cls"},
    ),
    "depth-of-a-foreign-format": ("a.jpg a.exr a.cls=5", {"a.jpg": 5}, {}),
    "image-of-a-foreign-format": (
        "a.heic a.thumb.jpg a.cls=5 x.jpg x.cls=0",
        {"x.jpg": 0},
        {"a.heic": "HEIC is not supported"},
    ),
    "part-with-a-label": ("a.jpg a.cls=5 a.b.jpg a.b.cls=6", {"a.jpg": 5, "a.b.jpg": 6}, {}),
    "same-names-in-folders": (
        "p/0.jpg q/0.jpg p/0.cls=1 q/0.cls=2",
        {"p/0.jpg": 1, "q/0.jpg": 2},
        {},
    ),
    "dots-in-folders": ("v1.2/0.jpg v1.2/0.cls=3", {"v1.2/0.jpg": 3}, {}),
    "class-name": ("0.jpg 0.cls=cat x.jpg x.cls=0", {"x.jpg": 0}, {"0.jpg": "no whole number"}),
    "negative": ("0.jpg 0.cls=-1 x.jpg x.cls=0", {"x.jpg": 0}, {"0.jpg": "no whole number"}),
    "long-label": (f"0.jpg 0.cls={'1' * 50} x.jpg x.cls=0", {"x.jpg": 0}, {"0.jpg": "no whole"}),
    "no-label": ("0.jpg x.jpg x.cls=0", {"x.jpg": 0}, {"0.jpg": "no 0.cls"}),
    "other-labels": ("0.jpg 0.json=1 0.txt=1 x.jpg x.cls=0", {"x.jpg": 0}, {"0.jpg": "no 0.cls"}),
    "apple-double": ("0.jpg ._0.jpg ._0.cls=9 0.cls=1", {"0.jpg": 1}, {}),
}  # fmt: skip


def members(text):
    for word in text.split():
        name, _, content = word.partition("=")
        image = {"heic": HEIC, "exr": b"v/1\x01"}.get(name.rpartition(".")[2], jpeg())
        yield name, content.encode() or image


@pytest.mark.parametrize("name", CASES)
def test_label_or_reason(tmp_path, name):
    text, labels, skipped = CASES[name]
    source = find(make_tar(tmp_path / "a.tar", list(members(text))), tmp_path)
    assert in_tar(source) == labels
    found = reasons(source)
    assert set(found) == set(skipped)
    assert all(part in found[image] for image, part in skipped.items())


WORDS = st.sampled_from(["a", "b", "1", "2", "seg"])
STEMS = st.lists(WORDS, min_size=1, max_size=3).map(".".join)
FILES = st.lists(
    st.tuples(STEMS, st.sampled_from(["jpg", "png", "cls", "cls", "heic"])), min_size=1, max_size=9
)


@settings(max_examples=80, deadline=None)
@given(files=FILES)
def test_every_image_is_labelled_listed_or_counted_and_no_label_is_guessed(files, tmp_path_factory):
    """Each label file has a different number, so that a label shows where it came from."""
    folder = tmp_path_factory.mktemp("tar")
    contents = [
        (f"{stem}.{kind}", str(number).encode() if kind == "cls" else jpeg())
        for number, (stem, kind) in enumerate(files)
    ]
    try:
        source = find(make_tar(folder / "a.tar", contents), folder)
    except DataError as error:
        assert "no images in" in str(error)
        return
    if "cls" not in {kind for _, kind in files}:
        assert source.labels is None
        return
    images = [name for name, _ in contents if not name.endswith(".cls")]
    for item, label in zip(source.items, source.labels, strict=True):
        stem, kind = files[label]
        name = item.member.rpartition(".")[0]
        assert kind == "cls"
        assert files.count((stem, "cls")) == 1
        assert name == stem or name.startswith(f"{stem}.")
        if name != stem:  # the only possible image, apart from its other parts
            rivals = [
                image for image in images
                if image.startswith(f"{stem}.") and not image.startswith(f"{name}.")
            ]  # fmt: skip
            assert rivals == []
    told = len(source.items) + len(source.skipped) + parts_told(source)
    assert told == len(images)


def parts_told(source):
    notes = [note for note in source.notes if "other parts of a sample" in note]
    return sum(int(word) for note in notes for word in note.split() if word.isdecimal())


def test_parts_are_counted_in_one_note(tmp_path):
    text = " ".join(f"{i}.jpg {i}.seg.png {i}.depth.png {i}.json=1 {i}.cls={i}" for i in range(50))
    source = find(make_tar(tmp_path / "a.tar", list(members(text))), tmp_path)
    assert source.labels == list(range(50))
    assert source.skipped == []
    assert source.notes == [
        "left out as other parts of a sample: 50 .depth.png, 50 .seg.png",
        "ignored, also as labels: 50 .json",
    ]


def test_samples_do_not_reach_across_shards(tmp_path):
    make_tar(tmp_path / "s" / "0.tar", list(members("0.jpg 0.cls=1")))
    make_tar(tmp_path / "s" / "1.tar", list(members("0.jpg 0.cls=2")))
    make_tar(tmp_path / "s" / "2.tar", list(members("0.jpg")))
    source = find(tmp_path / "s", tmp_path)
    assert source.labels == [1, 2]
    assert reasons(source) == {"0.jpg": "no 0.cls"}


def test_without_labels_names_with_dots_are_names(tmp_path):
    text = (
        "n1/i.1.jpg n1/i.2.jpg n1/i.jpg n1/i.seg.png n2/a.left.jpg n2/a.right.jpg n2/b.jpg n2/b.png"
    )
    source = find(make_tar(tmp_path / "a.tar", list(members(text))), tmp_path)
    assert in_tar(source) == {
        "n1/i.1.jpg": 0, "n1/i.2.jpg": 0, "n1/i.jpg": 0,
        "n2/a.left.jpg": 1, "n2/a.right.jpg": 1, "n2/b.jpg": 1, "n2/b.png": 1,
    }  # fmt: skip
    assert source.notes == [
        "used, though only the extension differs from another image: 1",
        "left out as other parts of a sample: 1 .seg.png",
    ]


def test_without_labels_the_last_of_a_path_counts(tmp_path):
    pairs = [("a/1.jpg", jpeg(1)), ("b/1.jpg", jpeg(2)), ("a/1.jpg", jpeg(3))]
    source = find(make_tar(tmp_path / "a.tar", pairs), tmp_path)
    assert [item.read() for item in source.items] == [jpeg(2), jpeg(3)]
    assert reasons(source) == {"1.jpg": "replaced by a later file with the same path"}
