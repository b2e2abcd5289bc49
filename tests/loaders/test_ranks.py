"""Every back end, as each rank of 1, 2 and 4 processes: together they make the same batches."""

import zlib

import numpy as np
import pytest
from back_ends import QUICK

from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings

WORLDS = (2, 1, 4)  # the others resume where two stopped
BATCH, EPOCH, STOP = 8, 1, 2
BACK_ENDS = [
    name.replace("folder-1", "folder-0").replace("dataset-1", "dataset-0") for name in QUICK
]
"""Without processes, which would start twelve times, and know nothing of ranks."""


def note(batch):
    """Return (sample, key, label, checksum of the pixels) of each row."""
    checksums = [zlib.crc32(pixels.numpy().tobytes()) for pixels in batch.images]
    columns = batch.index.tolist(), batch.key.tolist(), batch.labels.tolist(), checksums
    return list(zip(*columns, strict=True))


def watched(loader, stopped):
    """Return an epoch of a rank, the state after STOP steps, and what follows `stopped`."""
    loader.set_epoch(EPOCH)
    batches = iter(loader)
    first = [note(next(batches)) for _ in range(STOP)]
    state, found = loader.state_dict(), {"epoch": first + [note(batch) for batch in batches]}
    if stopped:
        loader.load_state_dict(stopped)
        found["resumed"] = [note(batch) for batch in loader]
    return found, state


@pytest.fixture(scope="module")
def seen(data):
    """Return {number of ranks: [what each rank saw, by back end]}.

    A rank is an argument of a loader, which exchanges nothing with others: one process is enough.
    """
    seen, states = {}, {}
    for world in WORLDS:
        seen[world] = [{} for _ in range(world)]
        settings = {"batch_size": BATCH // world, "mix_group": 2, "world_size": world}
        for rank, name in [(r, name) for r in range(world) for name in BACK_ENDS]:
            with data.loader(name, rank=rank, **settings) as loader:
                found, state = watched(loader, states.get(name) if world != WORLDS[0] else None)
                seen[world][rank][name] = found
                states.setdefault(name, state)
    return seen


def global_batches(ranks, back_end, part):
    """Return for each step the rows of all ranks, in the order of ranks."""
    steps = zip(*(rank[back_end][part] for rank in ranks), strict=True)  # equally many
    return [[row for rows in step for row in rows] for step in steps]


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_global_batches_are_the_same_for_any_number_of_ranks(seen, back_end):
    expected = global_batches(seen[1], back_end, "epoch")
    assert {len(batch) for batch in expected} == {BATCH}
    for world in (2, 4):
        assert global_batches(seen[world], back_end, "epoch") == expected


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_are_disjoint_and_their_union_is_the_epoch(data, seen, back_end, world):
    shares = [{row[0] for step in rank[back_end]["epoch"] for row in step} for rank in seen[world]]
    sampler = Sampler(np.array(data.labels), LoaderSettings(batch_size=BATCH, mix_group=2, seed=5))
    whole = sampler.plan(EPOCH).order[: data.count // BATCH * BATCH]
    assert sum(map(len, shares)) == len(whole) and set().union(*shares) == set(whole.tolist())


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("world", [1, 4])
def test_other_numbers_of_ranks_resume_where_two_stopped(seen, back_end, world):
    whole = global_batches(seen[2], back_end, "epoch")
    assert global_batches(seen[world], back_end, "resumed") == whole[STOP:]


def test_all_back_ends_use_the_same_samples(seen):
    """And the same pixels, if they decode exactly."""
    pictures = [name for name in BACK_ENDS if name != "synthetic-0"]
    alone = seen[1][0]
    rows = {name: [row for step in alone[name]["epoch"] for row in step] for name in pictures}
    reference = rows["pillow-2"]
    for name in pictures:
        assert [row[:3] for row in rows[name]] == [row[:3] for row in reference]
    exact = {name for name in pictures if rows[name] == reference}
    assert exact == {"native-2", "pillow-2", "folder-0", "dataset-0"}.intersection(BACK_ENDS)
