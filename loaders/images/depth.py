"""Messages about images of more than 8 bits: 8 are kept, and dark images may use few of them."""

from __future__ import annotations

from collections import Counter

_FEW = range(1, 15)
"""Used bits, of 16, at which an image is dark: its values are below a quarter of the range. (With
no bit used it is black, which no scaling changes.)"""


def depth(used: int, bits: int, *, colours: bool = False) -> str:
    """Describe an image's depth by the number of bits used; images of equal depth are counted."""
    return f"{used} of {bits} bits {'a colour' if colours else 'of gray'} used"


_DARK_GRAY = {depth(used, 16): used for used in _FEW}
_DARK_COLOURS = {depth(used, 16, colours=True): used for used in _FEW}


def depth_notes(depths: Counter[str]) -> list[str]:
    """Make the lines about images of more than 8 bits, counted by their `depth`."""
    if not depths:
        return []
    counts = ", ".join(f"{what}: {count}" for what, count in sorted(depths.items()))
    kept = f"{depths.total()} have more than 8 bits, of which 8 are kept ({counts})"
    used_bits = [_bits_if_mostly_dark(depths, dark) for dark in (_DARK_GRAY, _DARK_COLOURS)]
    remedies = (
        "--value_range 0 {} maps the range they use to 0..255",
        "--value_range cannot map colours, so scale {} to 255 with another tool",
    )
    pairs = zip(used_bits, remedies, strict=True)
    return [kept, *(_hint(used, remedy) for used, remedy in pairs if used)]


def _bits_if_mostly_dark(depths: Counter[str], dark: dict[str, int]) -> int:
    """Return the most bits that a dark image uses, if most images here are dark; else 0."""
    present = {what: count for what, count in depths.items() if what in dark}
    most = 2 * sum(present.values()) > depths.total()
    return max(dark[what] for what in present) if most else 0


def _hint(used: int, remedy: str) -> str:
    greatest = 2**used - 1
    return f"most of these use at most {used} of 16 bits and are dark: {remedy.format(greatest)}"
