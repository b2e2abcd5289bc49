"""Random JPEG files of many kinds, and random damage to them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from jpeg_entropy import Scan
from jpeg_writer import EXTENDED, JFIF, PROGRESSIVE, Spec, adobe, segment

Sampling = tuple[tuple[int, int], ...]
GRAY: Sampling = ((1, 1),)
USUAL: list[Sampling] = [
    GRAY,
    *(((h, v), (1, 1), (1, 1)) for h, v in [(1, 1), (2, 1), (1, 2), (2, 2), (2, 2), (4, 1)]),
]
ODD: list[Sampling] = [
    ((2, 2), (2, 1), (1, 2)),
    ((1, 1), (2, 2), (1, 1)),
    ((2, 2), (1, 2), (1, 1)),
    ((1, 2), (4, 1), (2, 1)),
    ((3, 1), (1, 1), (3, 1)),
    ((4, 2), (1, 1), (1, 1)),
    ((3, 2),),
]
_JUNK = [0xFF, 0xD9, 0xD8, 0xDA, 0xC4, 0xD0, 0x00]


def together(sampling: Sampling) -> tuple[Scan, ...]:
    """Make a single scan of all components."""
    return (Scan(tuple(range(len(sampling)))),)


def apart(rng: random.Random, sampling: Sampling) -> tuple[Scan, ...]:
    """Make a separate scan for each component."""
    return tuple(Scan((i,)) for i in rng.sample(range(len(sampling)), len(sampling)))


def progression(rng: random.Random, sampling: Sampling) -> tuple[Scan, ...]:
    """Make random scans that send all bits of all coefficients, DC first."""
    parts = [scan.components for scan in rng.choice([together(sampling), apart(rng, sampling)])]
    low = rng.randrange(3)
    bands = [[Scan(part, 0, 0, bit, bit - 1) for bit in range(low, 0, -1) for part in parts]]
    for i in range(len(sampling)):
        cuts = [0, *sorted(rng.sample(range(1, 63), rng.randrange(3))), 63]
        for before, last in itertools.pairwise(cuts):
            start = rng.randrange(3)
            refined = [Scan((i,), before + 1, last, bit, bit - 1) for bit in range(start, 0, -1)]
            bands.append([Scan((i,), before + 1, last, 0, start), *refined])
    scans = [Scan(part, 0, 0, 0, low) for part in parts]
    while bands := [band for band in bands if band]:
        scans.append(rng.choice(bands).pop(0))
    return tuple(scans)


def _progressive(rng: random.Random, sampling: Sampling) -> dict[str, Any]:
    return {"frame": PROGRESSIVE, "scans": progression(rng, sampling)}


def _without_last_scans(rng: random.Random, sampling: Sampling) -> dict[str, Any]:
    made = _progressive(rng, sampling)
    return {**made, "sent": rng.choice([1, rng.randint(1, len(made["scans"]) - 1)])}


def _between(odd: bytes) -> Callable[..., dict[str, Any]]:
    return lambda rng, _: {"odd": ((rng.randrange(20), odd),)}


Kind = Callable[[random.Random, Sampling], dict[str, Any]]
"""The changes of a Spec that make a kind."""

SOUND: dict[str, Kind] = {
    "baseline": lambda rng, s: {},
    "extended": lambda rng, s: {"frame": EXTENDED},
    "standard tables": lambda rng, s: {"huffman": "standard"},
    "no tables": lambda rng, s: {"huffman": "none"},
    "no tables, several scans": lambda rng, s: {"huffman": "none", "scans": apart(rng, s)},
    "some tables": lambda rng, s: {
        "huffman": "standard",
        "defined": frozenset([rng.randrange(2)]),
    },
    "other slots": lambda rng, s: {"slots": rng.choice([(2, 3, 3, 3), (0, 1, 2, 3), (1, 0, 1, 0)])},
    "16 bits": lambda rng, s: {"quantisation": 16},
    "several scans": lambda rng, s: {"scans": apart(rng, s)},
    "tables between scans": lambda rng, s: {"scans": apart(rng, s), "between": True},
    "restarts": lambda rng, s: {"restart": rng.randint(1, 9)},
    "restarts, several scans": lambda rng, s: {
        "restart": rng.randint(1, 9),
        "scans": apart(rng, s),
    },
    "progressive": _progressive,
    "progressive, restarts": lambda rng, s: {**_progressive(rng, s), "restart": rng.randint(1, 20)},
    "progressive, tables between scans": lambda rng, s: {**_progressive(rng, s), "between": True},
    "progressive, standard tables": lambda rng, s: {
        **_progressive(rng, s),
        "huffman": "standard",
    },
    "progressive, last scans missing": _without_last_scans,
    "JFIF": lambda rng, s: {"headers": (JFIF,)},
    "Adobe": lambda rng, s: {"headers": (*rng.choice([(), (JFIF,)]), adobe(rng.randrange(3)))},
    "names of components": lambda rng, s: {"ids": rng.choice([b"RGB", b"\0\1\2", b"\1\1\1"])},
    "odd sampling": lambda rng, s: {
        "sampling": (odd := rng.choice(ODD)),
        "scans": together(odd),
    },
    "CMYK": lambda rng, s: {
        "sampling": ((1, 1),) * 4,
        "scans": together(((1, 1),) * 4),
        "headers": rng.choice([(), (adobe(0),), (adobe(2),)]),
    },
    "a comment": _between(segment(0xFE, b"\xff\xd9 not the end \xff\xda")),
    "padding": _between(b"\xff\xff\xff"),
    "an escaped ff": lambda rng, s: {"headers": (b"\xff\0",)},
    "a restart where none should be": _between(b"\xff\xd3"),
    "a short length": lambda rng, s: {"headers": (segment(0xE1, b"x" * 20, rng.randrange(22)),)},
    "more behind the end": lambda rng, s: {"end": b"\xff\xd9" + rng.randbytes(30)},
}
"""Kinds that Pillow and our engine decode, whether or not they conform to the standard."""

UNSOUND: dict[str, Kind] = {
    "12 bits": lambda rng, s: {"precision": 12, "frame": EXTENDED},
    "two components": lambda rng, s: {"sampling": GRAY * 2, "scans": together(GRAY * 2)},
    "no steps": lambda rng, s: {"quantisation": None},
    "tables for nothing": lambda rng, s: {"huffman": "none", "slots": (2, 3, 3, 3)},
    "progressive, no tables": lambda rng, s: {**_progressive(rng, s), "huffman": "none"},
    "progressive, out of order": lambda rng, s: {
        "frame": PROGRESSIVE,
        "scans": tuple(reversed(progression(rng, s))),
    },
    "a scan twice": lambda rng, s: {"scans": together(s) * 2},
    "fractional sampling": lambda rng, s: {
        "sampling": (fractional := ((3, 1), (2, 1), (1, 1))),
        "scans": together(fractional),
    },
    "no end": lambda rng, s: {"end": b""},
    "a long length": lambda rng, s: {"headers": (segment(0xE1, b"x" * 20, 30),)},
    "bytes between segments": lambda rng, s: _between(rng.randbytes(rng.randint(1, 4)))(rng, s),
    "a marker of no meaning": _between(b"\xff\x01"),
    "a second start": _between(b"\xff\xd8"),
    "an early end": _between(b"\xff\xd9"),
}
"""Kinds that some or all decoders refuse."""

KINDS = {**SOUND, **UNSOUND}


def draw(rng: random.Random, kind: str) -> Spec:
    """Draw a small file of a kind; every third is tiny."""
    most = 9 if rng.randrange(3) == 0 else 60
    sampling = rng.choice(USUAL)
    settings = {
        "height": rng.randint(1, most),
        "width": rng.randint(1, most),
        "sampling": sampling,
        "scans": together(sampling),
        "seed": rng.randrange(1 << 30),
    }
    return Spec(**settings | KINDS[kind](rng, sampling))


def damage(rng: random.Random, data: bytes) -> bytes:
    """Change, remove or add a few bytes anywhere except in the first two."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        start = rng.randrange(2, len(found))
        count = rng.choice([1, 1, 2, 3, 10, 50, 200])
        stretch = slice(start, start + count)
        match rng.randrange(6):
            case 0:
                found[start] ^= 1 << rng.randrange(8)
            case 1:
                found[stretch] = bytes(len(found[stretch]))
            case 2:
                del found[max(start, 4) :]
            case 3:
                found[start:start] = rng.randbytes(min(count, 10))
            case 4:
                del found[stretch]
            case 5:
                found[start : start + 2] = rng.choices(_JUNK, k=2)
        if len(found) < 4:
            return data[:4]
    return bytes(found)
