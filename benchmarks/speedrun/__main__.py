"""Run, check and list entries of the speedrun: `python -m benchmarks.speedrun --help`.

run ENTRY: train and judge, and write its record. check [ENTRY ...]: are entries, their records and
the ledger as the rules want them? ledger: write README.md's table. ENTRY is the name of a folder in
benchmarks/speedrun/entries.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.harness import BenchmarkReport
from benchmarks.speedrun.entry import ENTRIES, all_entries, read_entry
from benchmarks.speedrun.ledger import PAGE, page_with, problems
from benchmarks.speedrun.rules import SEEDS, TRACKS
from benchmarks.speedrun.run import Data, run_entry, use_cores
from fastimae.flags import OnceParser
from fastimae.folders import write_text
from fastimae.settings import ConfigError
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.speedrun"


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Do what is asked. Exit status 1 for an entry that breaks a rule, or a run that fails."""
    options = parser().parse_args(argv)
    try:
        return options.do(options)
    except ConfigError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
    except subprocess.CalledProcessError:  # which has said why
        print(f"{PROG}: a run failed, and is not recorded", file=sys.stderr)
    return 1


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = OnceParser(prog=PROG, description=__doc__)
    commands = made.add_subparsers(required=True)
    one = commands.add_parser("run", help="train and judge an entry")
    one.add_argument("entry", help="name of its folder")
    one.add_argument("--ffcv", type=Path, required=True, help="training images, .beton")
    one.add_argument("--val", type=Path, required=True, help="test images, .beton")
    one.add_argument("--track", choices=TRACKS, default="cpu")
    one.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    one.set_defaults(do=run)
    some = commands.add_parser("check", help="check entries, records and the ledger")
    some.add_argument("entries", nargs="*", help="names of folders; none: all, and the ledger")
    some.set_defaults(do=check)
    commands.add_parser("ledger", help="write the table of records").set_defaults(do=ledger)
    return made


def run(options: argparse.Namespace) -> int:
    """Run an entry with each seed, and write its record beside it."""
    entry, track = read_entry(ENTRIES / options.entry), TRACKS[options.track]
    if track.device == "cpu":
        use_cores()
    elif not torch.cuda.is_available():
        raise ConfigError(f"--track {options.track} needs a GPU, and torch finds none")
    out = entry.record_file(options.track)
    files = ["--ffcv", options.ffcv.name, "--val", options.val.name]
    seeds = ["--seeds", *map(str, options.seeds)]
    shown = ["run", entry.name, "--track", options.track, *seeds, *files]  # no paths of a machine
    report = BenchmarkReport(torch.device(track.device), PROG, shown, out, track=options.track)
    run_entry(entry, track, Data(options.ffcv, options.val), options.seeds, report)
    return 0


def check(options: argparse.Namespace) -> int:
    """Print a line for each thing that is wrong."""
    names = options.entries
    entries = [read_entry(ENTRIES / name) for name in names] if names else all_entries()
    wrong = [
        f"{entry.name}, {track}: {line}"
        for entry in entries for track in TRACKS for line in problems(entry, track)
    ]  # fmt: skip
    page = PAGE.read_text(encoding="utf-8")
    if not names and page != page_with(entries, page):
        wrong.append(f"{PAGE.name}: its table is old: run `{PROG} ledger`")
    print("\n".join(wrong or [f"{len(entries)} entries are as the rules want them"]))
    return 1 if wrong else 0


def ledger(_: argparse.Namespace) -> int:
    """Write the table of records into README.md."""
    page = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, page_with(all_entries(), page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
