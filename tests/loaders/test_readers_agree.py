"""All readers agree on a sample's pixels, and on whether it is bad.

Both depend only on its bytes: not on the window, the threads, or what was decoded before.
"""

import numpy as np
import odd_jpegs
import pytest
from back_ends import INSTALLED

from fastimae.loaders import BetonReader, BetonWriter, create_loader, native_library
from fastimae.loaders.beton.trailer import make_trailer

READERS = ["native-0", "native-1", "native-3", "pillow-2"]
READERS += ["dali-2"] * ("nvidia-dali" in INSTALLED)
HEIGHT, WIDTH = 48, 64

pytestmark = pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())


def jpeg(seed: int, **options) -> bytes:
    return odd_jpegs.jpeg(odd_jpegs.picture(seed, (WIDTH, HEIGHT)), **options)


def with_odd_scan_header(data: bytes) -> bytes:
    """Change Ss, Se, Ah and Al, which mean nothing in a baseline file."""
    at = data.index(b"\xff\xda") + 2 + int.from_bytes(data[data.index(b"\xff\xda") + 2 :][:2])
    assert data[at - 3 : at] == b"\0\x3f\0"
    return data[: at - 3] + bytes(3) + data[at:]


def write(path, payloads, trailers=make_trailer):
    with BetonWriter(path) as writer:
        for number, data in enumerate(payloads):
            trailer = trailers(data)
            writer.append(data, height=HEIGHT, width=WIDTH, label=number, trailer=trailer)
    return path


def looked_at(path, reader, epochs=3, **settings):
    """Return a loader's bad samples, and its crops of all others, by sample."""
    name, workers = reader.split("-")
    source = {"dali": path} if name == "dali" else {"ffcv": path, "decoder": name}
    settings = {"batch_size": 4, "input_size": (16, 24), "mix_group": 0, "seed": 1} | settings
    shown = {}
    with create_loader(**source, num_workers=int(workers), **settings) as loader:
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                for index, key, pixels in zip(batch.index, batch.key, batch.images, strict=True):
                    shown[epoch, int(index), int(key)] = pixels.numpy()
        return dict(loader.bad), shown


def assert_all_readers_agree(path, bad=(), **settings):
    reasons, expected = looked_at(path, "pillow-2", **settings)
    assert set(reasons) == set(bad)
    assert not {index for _, index, _ in expected} & set(bad)
    for reader in READERS:
        reasons, shown = looked_at(path, reader, **settings)
        assert set(reasons) == set(bad), reader
        assert shown.keys() == expected.keys(), reader
        for place, pixels in shown.items():
            difference = np.abs(pixels.astype(int) - expected[place])
            assert difference.mean() < 0.5 if "dali" in reader else not difference.any(), reader


@pytest.mark.parametrize("seed", [0, 1])
def test_frames_of_motion_jpeg_among_others(tmp_path, seed):
    """Tables of one image must not serve for the next."""
    rng = np.random.default_rng(seed)
    frames = [odd_jpegs.without(jpeg(i), odd_jpegs.HUFFMAN_TABLES) for i in range(24)]
    payloads = [
        jpeg(i, optimize=True) if rng.random() < 0.5 else frame for i, frame in enumerate(frames)
    ]
    for trailers in (make_trailer, lambda _: b""):
        assert_all_readers_agree(write(tmp_path / "f.beton", payloads, trailers))


def test_files_without_quantisation_tables_are_bad(tmp_path):
    payloads = [jpeg(i) for i in range(8)]
    payloads[3] = odd_jpegs.without(payloads[3], odd_jpegs.QUANTISATION_TABLES)
    assert_all_readers_agree(write(tmp_path / "f.beton", payloads), bad=[3])


@pytest.mark.parametrize("count", [1, 3, 6])
def test_progressive_files_without_their_last_scans(tmp_path, count):
    whole = [jpeg(i, progressive=True) for i in range(8)]
    sent = whole[0].count(odd_jpegs.SCAN) - count
    payloads = [odd_jpegs.first_scans(data, sent) for data in whole]
    assert_all_readers_agree(write(tmp_path / "f.beton", payloads))


def test_odd_scan_headers_and_something_between_segments(tmp_path):
    payloads = [jpeg(i) for i in range(8)]
    payloads[1] = with_odd_scan_header(payloads[1])
    payloads[2] = payloads[2][:20] + b"\0\x07" + payloads[2][20:]
    payloads[3] = payloads[3][:20] + b"\xff\x01" + payloads[3][20:]  # Pillow refuses this marker
    assert_all_readers_agree(write(tmp_path / "f.beton", payloads), bad=[3])


def test_damage_behind_something_between_segments(tmp_path):
    payloads = [jpeg(i) for i in range(8)]
    for i in (2, 4, 6):
        payloads[i] = payloads[i][:20] + b"\0\x07" + payloads[i][20:]
    middle = len(payloads[4]) * 3 // 4
    payloads[4] = payloads[4][:middle] + b"\xff\xe0" + payloads[4][middle + 2 :]
    assert_all_readers_agree(write(tmp_path / "f.beton", payloads), bad=[4])


@pytest.mark.parametrize("trailers", [make_trailer, lambda _: b""], ids=["checksums", "none"])
def test_damage_counts_in_any_window(tmp_path, trailers):
    """The files were damaged before they were written, so their checksums are right."""
    payloads = [jpeg(i) for i in range(8)]
    payloads[2] = payloads[2][:-30]
    payloads[5] = payloads[5][: len(payloads[5]) * 3 // 4] + b"\xff\xd9"
    path = write(tmp_path / "f.beton", payloads, trailers)
    assert_all_readers_agree(path, bad=[2, 5], epochs=1, min_crop=0.05)


def test_zeros_from_one_sample_into_the_next(tmp_path):
    path = write(tmp_path / "f.beton", [jpeg(i) for i in range(8)])
    with BetonReader(path) as reader:
        (start, size), (following, _) = reader.region(3), reader.region(4)
    with path.open("r+b") as file:
        file.seek(start + size // 2)
        file.write(bytes(following + 600 - start - size // 2))
    assert_all_readers_agree(path, bad=[3, 4])


@pytest.mark.parametrize("position", [0, 4, 8, 12, 16])
def test_any_damage_of_a_trailer_makes_its_sample_bad(tmp_path, position):
    path = write(tmp_path / "f.beton", [jpeg(i) for i in range(8)])
    with BetonReader(path) as reader:
        at = int(reader.trailer_positions[5]) + position
    data = bytearray(path.read_bytes())
    data[at] ^= 0x20
    path.write_bytes(data)
    assert_all_readers_agree(path, bad=[5])
