"""Train and test a segmentation model on two forked processes: `segment_ranks.py FOLDER FLAGS...`.

FOLDER has the results of one process in "one". Writes the exit statuses as JSON to stdout.
"""

import json
import sys
from pathlib import Path

from forked import launch

from fastimae import cli
from fastimae.evaluate.tasks import segment  # noqa: F401 - before the fork, once

OF_DATA = slice(0, 4)
"""Flags that --eval takes, too: --checkpoint and --data_path."""

folder, *flags = sys.argv[1:]
root = Path(folder)
one, two = root / "one", root / "two"
test = [*flags[OF_DATA], "--num_workers", "0", "--device", "cpu", "--precision", "fp32", "--eval"]
test += ["--resume", str(one / "checkpoint-best.pth"), "--output_dir", str(root / "test")]
work = {
    "two": ["segment", *flags, "--batch_size", "4", "--output_dir", str(two)],
    "test": ["segment", *test],
}
codes = {
    name: launch(root, name, 2, lambda words=words: cli.evaluate(words))["codes"]
    for name, words in work.items()
}
print(json.dumps(codes))
