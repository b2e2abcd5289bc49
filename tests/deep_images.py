"""Image files of many kinds and their pixels, also of kinds that Pillow cannot write."""

import io
import struct
import zlib

import numpy as np
import older_pillow
from PIL import Image, ImageCms

HEIGHT, WIDTH = SHAPE = 12, 20
_RNG = np.random.default_rng(0)
RGB = _RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
ALPHA = _RNG.integers(0, 256, SHAPE, dtype=np.uint8)
GRAY16 = _RNG.integers(0, 1 << 16, SHAPE, dtype=np.uint16)
GRAY12 = GRAY16 >> 4
COLOURS16 = np.stack([GRAY16, GRAY16[::-1], GRAY16[:, ::-1]], -1)
PALETTE = Image.fromarray(RGB).quantize(17)


def file_bytes(image, kind, mode=None, **options):
    """Encode a picture, or an array of one, with Pillow."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def tiff(data, bits, photometric=1, sample_format=1):
    """Make an uncompressed TIFF of these bytes; bits: of each channel."""
    channels = len(bits)
    behind = 8 + 2 + 12 * 10 + 4
    entries = [
        (256, 4, 1, WIDTH), (257, 4, 1, HEIGHT),
        (258, 3, channels, bits[0] if channels == 1 else behind),
        (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, behind + 2 * channels),
        (277, 3, 1, channels), (278, 4, 1, HEIGHT), (279, 4, 1, len(data)),
        (339, 3, 1, sample_format),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + table + bytes(4) + struct.pack(f"<{channels}H", *bits) + data


def packed12(values):
    """Pack two 12-bit numbers into three bytes."""
    first, second = values.reshape(-1, 2).T
    parts = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(parts, -1).astype(np.uint8).tobytes()


def png16(channels):
    """Make a PNG with 16 bits per channel from uint16 [H, W, 2 to 4]."""
    colour = {2: 4, 3: 2, 4: 6}[channels.shape[-1]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def pnm(magic, greatest, values, dtype=">u2"):
    """Make a PGM, PPM or PFM."""
    return b"%s %d %d %s\n" % (magic, WIDTH, HEIGHT, greatest) + values.astype(dtype).tobytes()


def _lab():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    return ImageCms.applyTransform(Image.fromarray(RGB), transform)


def _gray(values):
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)


LAB = _lab()
_BIG_ENDIAN = Image.frombytes("I;16B", SHAPE[::-1], GRAY16.astype(">u2").tobytes())
_SCALED12 = np.rint(GRAY12 * (65535 / 4095)).astype(int)

GRAY16_FILES = {
    "16-PNG": file_bytes(GRAY16, "PNG"),
    "16-TIFF": file_bytes(GRAY16, "TIFF"),
    "16-TIFF-big-endian": file_bytes(_BIG_ENDIAN, "TIFF"),
    "16-TIFF-LZW": file_bytes(GRAY16, "TIFF", compression="tiff_lzw"),
    "16-PGM": pnm(b"P5", b"65535", GRAY16),
    "16-JPEG-2000": file_bytes(GRAY16, "JPEG2000"),
}
COLOURS16_FILES = {
    "gray-alpha-16-PNG": (png16(np.stack([GRAY16, ~GRAY16], -1)), _gray(GRAY16 >> 8)),
    "RGB-16-PNG": (png16(COLOURS16), COLOURS16 >> 8),
    "RGBA-16-PNG": (png16(np.dstack([COLOURS16, GRAY16])), COLOURS16 >> 8),
    "RGB-16-TIFF": (tiff(COLOURS16.tobytes(), (16, 16, 16), photometric=2), COLOURS16 >> 8),
    "RGB-16-PPM": (pnm(b"P6", b"65535", COLOURS16), np.rint(COLOURS16 / 257)),
}
SHOWN = {
    **{name: (data, _gray(GRAY16 >> 8)) for name, data in GRAY16_FILES.items()},
    "12-TIFF": (tiff(packed12(GRAY12), (12,)), _gray(GRAY12 >> 4)),
    "16-TIFF-white-is-zero": (
        tiff(GRAY16.tobytes(), (16,), photometric=0), _gray(255 - (GRAY16 >> 8)),
    ),
    "8-TIFF-white-is-zero": (tiff(ALPHA.tobytes(), (8,), photometric=0), _gray(255 - ALPHA)),
    "12-PGM": (pnm(b"P5", b"4095", GRAY12), _gray(_SCALED12 >> 8)),
    **COLOURS16_FILES,
    "1-PNG": (file_bytes(RGB, "PNG", "1"), np.asarray(Image.fromarray(RGB).convert("1"))),
    "1-TIFF": (file_bytes(RGB, "TIFF", "1"), np.asarray(Image.fromarray(RGB).convert("1"))),
    "LA-PNG": (file_bytes(np.dstack([ALPHA, ~ALPHA]), "PNG"), _gray(ALPHA)),
    "LA-TIFF": (file_bytes(np.dstack([ALPHA, ~ALPHA]), "TIFF"), _gray(ALPHA)),
    "RGBA-PNG": (file_bytes(np.dstack([RGB, ALPHA]), "PNG"), RGB),
    "RGBA-WebP": (file_bytes(np.dstack([RGB, ALPHA | 1]), "WEBP", lossless=True), RGB),
    "RGB-PPM": (file_bytes(RGB, "PPM"), RGB),
    "P-PNG": (file_bytes(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "P-PNG-transparent": (
        file_bytes(PALETTE, "PNG", transparency=bytes(range(17))),
        np.asarray(PALETTE.convert("RGB")),
    ),
    "P-GIF-transparent": (
        file_bytes(PALETTE, "GIF", transparency=3), np.asarray(PALETTE.convert("RGB")),
    ),
    "P-TIFF": (file_bytes(PALETTE, "TIFF"), np.asarray(PALETTE.convert("RGB"))),
    "P-BMP": (file_bytes(PALETTE, "BMP"), np.asarray(PALETTE.convert("RGB"))),
    "CMYK-TIFF": (file_bytes(RGB, "TIFF", "CMYK"), RGB),
    "YCbCr-TIFF": (
        file_bytes(RGB, "TIFF", "YCbCr"),
        np.asarray(Image.fromarray(RGB).convert("YCbCr").convert("RGB")),
    ),
    "AVIF": (file_bytes(RGB, "AVIF"), np.asarray(Image.open(io.BytesIO(file_bytes(RGB, "AVIF"))))),
    "LAB-TIFF": (file_bytes(LAB, "TIFF"), np.asarray(LAB.convert("RGB"))),
    "turned-TIFF": (file_bytes(RGB, "TIFF", tiffinfo={274: 3}), RGB[::-1, ::-1]),
}  # fmt: skip
"""By kind: a file, and its pixels, [H, W, 3], or [H, W] for bits."""
if older_pillow.IS_OLDER:
    del SHOWN["YCbCr-TIFF"]  # which Pillow calls truncated, before 13

SIGNED, WHOLE32 = GRAY16.astype(np.int16), GRAY16.astype(np.int32)
FLOATS = (GRAY16 / 65536).astype(np.float32)
NO_RANGE = "pixels have no known range: give it as --value_range LOW HIGH"
UNRANGED_FILES = {
    "float-TIFF": (file_bytes(FLOATS, "TIFF"), f"floating-point {NO_RANGE}"),
    "float-PFM": (pnm(b"Pf", b"-1.0", FLOATS[::-1], "<f4"), f"floating-point {NO_RANGE}"),
    "int32-TIFF": (file_bytes(WHOLE32, "TIFF"), f"32-bit or signed {NO_RANGE}"),
    "int16-TIFF": (
        tiff(SIGNED.tobytes(), (16,), sample_format=2), f"32-bit or signed {NO_RANGE}",
    ),
    "int8-TIFF": (tiff(ALPHA.tobytes(), (8,), sample_format=2), f"32-bit or signed {NO_RANGE}"),
}  # fmt: skip
REFUSED = {
    **UNRANGED_FILES,
    "Targa": (file_bytes(RGB, "TGA"), "not an image, or of an unknown format"),
    "PostScript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "PostScript is not supported: convert it to JPEG or PNG first",
    ),
}  # fmt: skip
"""By kind: a file, and why no reader accepts it."""
