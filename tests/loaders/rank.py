"""One process of `test_ranks`, started by torchrun: notes what each back end gives its rank.

    rank.py FOLDER BACK_END ...

FOLDER holds the data (see conftest), and gets the results: seen_WORLD.pth of all ranks and, from
two ranks, states.pth, taken in the middle of an epoch. If states.pth exists, the rest of that epoch
is added.
"""

import importlib.util
import sys
import zlib
from pathlib import Path

import torch
import torch.distributed as dist

spec = importlib.util.spec_from_file_location("shared", Path(__file__).with_name("conftest.py"))
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)

GLOBAL_BATCH, EPOCH, STOP = 8, 1, 2
Seen = list[list[tuple[int, int, int, int]]]
"""For each row of each step: sample, key, label, checksum of the pixels."""


def main(folder: Path, back_ends: list[str]) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    states = folder / "states.pth"
    before = torch.load(states, weights_only=True) if states.exists() else {}
    data = shared.Data(folder)
    seen, reached = {}, {}
    for name in back_ends:
        size = GLOBAL_BATCH // world
        with data.loader(name, batch_size=size, mix_group=2, rank=rank, world_size=world) as loader:
            loader.set_epoch(EPOCH)
            batches = iter(loader)
            first = [note(next(batches)) for _ in range(STOP)]
            reached[name] = loader.state_dict()
            seen[name] = {"epoch": first + [note(batch) for batch in batches]}
            if name in before:
                loader.load_state_dict(before[name])
                seen[name]["resumed"] = [note(batch) for batch in loader]
    everyone = [None] * world
    dist.all_gather_object(everyone, seen)
    if rank == 0:
        torch.save(everyone, folder / f"seen_{world}.pth")
        if world == 2:
            torch.save(reached, states)
    dist.destroy_process_group()


def note(batch: object) -> list[tuple[int, int, int, int]]:
    checksums = [zlib.crc32(pixels.numpy().tobytes()) for pixels in batch.images]
    columns = batch.index.tolist(), batch.key.tolist(), batch.labels.tolist(), checksums
    return list(zip(*columns, strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
