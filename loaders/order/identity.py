"""The identity of a source's images, in their order: what a file of labels for them refers to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from fastimae.loaders.order.epoch_steps import Read, digest_of


def identity_of(marks: Iterable[bytes], count: int, read: Read) -> str:
    """Identify `count` images by what marks all of them, and by the bytes of some.

    marks: of all images, such as their names or sizes, which another order changes. Labels do not
    count, nor does the place of the file or folder.
    """
    digest = hashlib.sha256()
    for mark in marks:
        digest.update(mark)
    some = digest_of(np.zeros(count, np.int64), read)
    digest.update(some.to_bytes(4, "little"))
    return digest.hexdigest()[:16]
