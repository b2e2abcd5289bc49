"""What users are told of images of more than 8 bits: that 8 are kept, and where these are few."""

from __future__ import annotations

from collections import Counter

ALL_BITS = 16
_FEW = 14
"""Values below a quarter of 16 bits are a dark picture."""


def about_depth(used: Counter[int]) -> list[str]:
    """Lines on images of more than 8 bits, of which `used` counts how many bits they use."""
    if not used:
        return []
    counts = ", ".join(f"{bits} bits used: {count}" for bits, count in sorted(used.items()))
    kept = f"{used.total()} of more than 8 bits, of which 8 are kept"
    hint = _range_hint(used)
    return [kept if set(used) == {ALL_BITS} else f"{kept} ({counts})", *([hint] if hint else [])]


def _range_hint(used: Counter[int]) -> str | None:
    """How to see more of gray images, if most of them use a small part of their 16 bits."""
    few = {bits: count for bits, count in used.items() if bits <= _FEW}
    if 2 * sum(few.values()) <= used.total():
        return None
    most = max(few)
    return (
        f"most of these use {most} of their 16 bits at most, and are dark: "
        f"--value_range 0 {2**most - 1} maps what they use to 0..255"
    )
