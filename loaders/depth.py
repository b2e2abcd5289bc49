"""What users are told of images of more than 8 bits: that 8 are kept, and where these are few."""

from __future__ import annotations

from collections import Counter

_FEW = range(1, 15)
"""So many of 16 bits: values below a quarter of the range are a dark picture. (Where none are used,
there is nothing to see.)"""


def depth(used: int, bits: int, *, colours: bool = False) -> str:
    """How deep an image is: so many of its bits are used. Equal for images that are alike."""
    return f"{used} of {bits} bits {'a colour' if colours else 'of gray'} used"


_DARK_GRAY = {depth(used, 16): used for used in _FEW}
_DARK_COLOURS = {depth(used, 16, colours=True): used for used in _FEW}


def about_depth(depths: Counter[str]) -> list[str]:
    """Lines on images of more than 8 bits, counted by their depth."""
    if not depths:
        return []
    counts = ", ".join(f"{what}: {count}" for what, count in sorted(depths.items()))
    kept = f"{depths.total()} of more than 8 bits, of which 8 are kept ({counts})"
    hints = _if_most(depths, _DARK_GRAY), _if_most(depths, _DARK_COLOURS)
    cures = (
        "--value_range 0 {} maps what they use to 0..255",
        "--value_range cannot map colours, so scale {} to 255 with another tool",
    )
    return [kept, *(_hint(used, cure) for used, cure in zip(hints, cures, strict=True) if used)]


def _if_most(depths: Counter[str], dark: dict[str, int]) -> int:
    """How many bits the dark images use at most, if most images are among them; else 0."""
    found = {what: count for what, count in depths.items() if what in dark}
    most = 2 * sum(found.values()) > depths.total()
    return max(dark[what] for what in found) if most else 0


def _hint(used: int, cure: str) -> str:
    """How to see more of them."""
    greatest = 2**used - 1
    return f"most of these use {used} of 16 bits at most and are dark: {cure.format(greatest)}"
