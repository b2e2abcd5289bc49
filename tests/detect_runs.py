"""Runs of fastimae-eval detect on scenes, with a tiny checkpoint: what its tests share.

A root is a folder with mae/checkpoint-last.pth and coco/, with scenes as in `shape_scenes`.
"""

import json

from fastimae.cli import evaluate

BASE = "--num_workers 0 --device cpu --precision fp32 --input_size 96 --batch_size 4"


def run(root, name, *flags, code=0):
    """Run the task with the checkpoint and scenes of `root`; return its folder.

    flags: text or paths. Of a flag that is given twice, the last counts.
    """
    fixed = f"--checkpoint {root}/mae/checkpoint-last.pth --coco {root}/coco"
    words = f"{fixed} --output_dir {root / name} {BASE} {' '.join(map(str, flags))}".split()
    given: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            values = given[word] = []
        else:
            values.append(word)
    if "--eval" in given:
        given.pop("--batch_size", None)  # images are tested one by one
    argv = [part for flag, values in given.items() for part in (flag, *values)]
    assert evaluate(["detect", *argv]) == code
    return root / name


def numbers_of(folder):
    return json.loads((folder / "results.json").read_text())["numbers"]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def annotations(root, split="train"):
    return root / f"coco/annotations/instances_{split}2017.json"


def changed(root, name, change, split="train"):
    """Write an annotation file that `change` has changed, and return its path."""
    content = json.loads(annotations(root, split).read_text())
    change(content)
    path = root / name / f"instances_{split}2017.json"  # whose images are in that folder
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path
