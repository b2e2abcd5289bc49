"""Write `.beton` files with any fields, as the ffcv library does, using only struct."""

import struct

PAGE = 4096
_TYPES = {"float": (0, "d"), "int": (1, "q"), "image": (2, "BHHQ"), "json": (5, "QQ")}


def many_fields(fields, columns, shade=40):
    """Return the bytes of a file.

    fields: (name, kind) of each; columns: the values of each number field by name. Images have 2 x
    2 pixels; their shade encodes the field and the sample.
    """
    kinds = [kind for _, kind in fields]
    count = len(next(iter(columns.values()))) if columns else 3
    layout = _layout(kinds)
    head = 24 + len(fields) * 1041
    first_page = -(-(head + count * struct.calcsize(layout)) // PAGE) * PAGE
    pages, metadata, table = b"", b"", b""
    for sample in range(count):
        values = []
        for number, (name, kind) in enumerate(fields):
            if kind in ("int", "float"):
                values.append(columns[name][sample])
                continue
            payload, at = bytes([shade * number + sample]) * 12, first_page + len(pages)
            table += struct.pack("<QQQ", sample, at, len(payload))
            pages += payload
            values += [1, 2, 2, at] if kind == "image" else [at, len(payload)]
        metadata += struct.pack(layout, *values)
    pages += bytes(-len(pages) % 8)
    header = struct.pack("<HHIQQ", 2, len(fields), PAGE, count, first_page + len(pages))
    for name, kind in fields:
        header += struct.pack("<B16s1024x", _TYPES[kind][0], name.encode())
    return (header + metadata).ljust(first_page, b"\0") + pages + table


def _layout(kinds):
    """Return the offsets of fields: numbers are aligned to 8 bytes, and so is the next sample."""
    layout = "<"
    for kind in [*kinds, *(["int"] if {"int", "float"} & set(kinds) else [])]:
        if kind in ("int", "float"):
            layout += "x" * (-struct.calcsize(layout) % 8)
        layout += _TYPES[kind][1]
    return layout.removesuffix("q") if {"int", "float"} & set(kinds) else layout
