"""Two processes on two GPUs, for test_cuda_buckets.py: plain steps, and recorded ones.

two_gpus.py FOLDER
"""

import functools
import json
import sys
from pathlib import Path

import averaging_ranks
from forked import launch

from fastimae.engine.distributed import join_world
from fastimae.engine.launcher import LaunchSettings
from fastimae.engine.step import GraphedStep, Step


def main(folder: Path) -> int:
    codes = launch(folder, "seen", 2, lambda: see(folder))["codes"]
    return max(map(abs, codes))


def see(folder: Path) -> int:
    world = join_world("cuda", LaunchSettings(dist_timeout=60))
    ours = functools.partial(averaging_ranks.in_buckets, world=world)
    seen = {
        name: averaging_ranks.train(world, "bf16", ours, kind=kind)
        for name, kind in (("plain", Step), ("recorded", GraphedStep))
    }
    (folder / f"seen-{world.rank}.json").write_text(json.dumps(seen))
    world.any(False)
    world.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
