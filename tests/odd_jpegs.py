"""JPEG files taken apart and reassembled in ways that occur in the wild."""

import io
import re

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 50, 70
HUFFMAN_TABLES, QUANTISATION_TABLES, FRAME, SCAN = (
    b"\xff\xc4",
    b"\xff\xdb",
    b"\xff\xc0",
    b"\xff\xda",
)
END = b"\xff\xd9"


def picture(seed=0, size=(WIDTH, HEIGHT)):
    """Draw coloured patches with soft edges."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BILINEAR)


def jpeg(image=None, **options):
    buffer = io.BytesIO()
    (image or picture()).save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def pixels(data):
    """Decode a file with Pillow; None if it refuses."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception:
        return None
    return np.asarray(image)


def header(data):
    """Split a file into (segments, rest); the rest begins with the first scan's header."""
    parts, at = [], 2
    while data[at : at + 2] != SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        parts.append(data[at:end])
        at = end
    return parts, data[at:]


def joined(parts, rest=b""):
    return b"\xff\xd8" + b"".join(parts) + rest


def without(data, marker, keep=0):
    """Remove all but the first `keep` segments of a kind from the header."""
    parts, rest = header(data)
    doomed = [part for part in parts if part.startswith(marker)][keep:]
    return joined([part for part in parts if part not in doomed], rest)


def inserted(data, marker, junk):
    """Insert bytes before the first segment of a kind."""
    at = data.index(marker)
    return data[:at] + junk + data[at:]


def first_scans(data, count):
    """Keep only the first scans of a progressive file, and an end marker."""
    starts = [found.start() for found in re.finditer(SCAN, data)]
    return data[: starts[count]] + END


def scan_by_scan(image=None, **options):
    """Make a sequential file of three scans, each with one component, preceded by its tables.

    Each is the scan of a gray JPEG of a plane. Returns the header and the parts of each scan.
    """
    planes = (image or picture()).convert("YCbCr").split()
    files = [header(jpeg(plane, **options)) for plane in planes]
    parts = files[0][0]
    frame = next(part for part in parts if part.startswith(FRAME))
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    colour = b"\xff\xc0\x00\x11" + frame[4:9] + b"\x03" + components
    first = [part for part in parts if not part.startswith((HUFFMAN_TABLES, FRAME))]
    scans = []
    for number, (parts, rest) in enumerate(files, 1):
        tables = [part for part in parts if part.startswith(HUFFMAN_TABLES)]
        assert rest[:6] == b"\xff\xda\x00\x08\x01\x01"
        scans.append((b"".join(tables), rest[:5] + bytes([number]) + rest[6:-2]))
    return joined([*first, colour]), scans
