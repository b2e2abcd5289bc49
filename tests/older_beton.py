"""Write `.beton` files as they were before their table had a checksum, using only struct."""

import struct
import zlib

PAGE = 4096
_HEAD, _DESCRIPTOR, _METADATA = "<HHIQQ", "<B16s1024x", "<BHHQ3xq"


def older_trailer(payload, rows=None, components=0):
    """Return a trailer. rows: (bit, (four predictors)) of each row of MCUs, or None."""
    rows = rows or ()
    content = struct.pack("<4sIII", b"FMT1", zlib.crc32(payload), components, len(rows))
    content += b"".join(struct.pack("<I4h", bit, *dc) for bit, dc in rows)
    return content + struct.pack("<I", zlib.crc32(content))


def older_beton(samples, page=PAGE):
    """Return the bytes of a file. Samples are (payload, height, width, mode, label, trailer)."""
    start = struct.calcsize(_HEAD) + 2 * struct.calcsize(_DESCRIPTOR)
    first_page = -(-(start + len(samples) * struct.calcsize(_METADATA)) // page) * page
    pages, metadata, images, trailers = b"", b"", [], []
    for number, (payload, height, width, mode, label, trailer) in enumerate(samples):
        room = -len(pages) % page or page
        if len(payload) + len(trailer) > room:
            pages += bytes(room)
        at = first_page + len(pages)
        metadata += struct.pack(_METADATA, ["jpg", "raw"].index(mode), width, height, at, label)
        trailers.append((number, at + len(payload), len(trailer)))
        images.append((number, at, len(payload)))
        pages += payload + trailer
    pages += bytes(-len(pages) % 8)
    header = struct.pack(_HEAD, 2, 2, page, len(samples), first_page + len(pages))
    names = struct.pack(_DESCRIPTOR, 2, b"image") + struct.pack(_DESCRIPTOR, 1, b"label")
    entries = [entry for entry in trailers + images if entry[2]]
    table = b"".join(struct.pack("<QQQ", *entry) for entry in entries)
    return (header + names + metadata).ljust(first_page, b"\0") + pages + table
