"""Wording of errors: flags for commands, argument names for Python, and "did you mean".

Messages are written once, with flags: "--batch_size 48 is not a multiple of --mix_group 32".
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

_FLAG = re.compile(r"(\bfastimae-[^:;()]*)|(?<![\w./-])--(\w+)\b(?![-=])")
"""A flag of ours. Not flags inside a command to type (fastimae-... or docker ...), nor file names
such as runs/a--b/x.pth."""
_OTHER_WORDS = {
    "adam": "adamw", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "16": "fp16",
    "amp": "bf16", "float": "fp32", "float32": "fp32", "32": "fp32", "single": "fp32",
    "gap": "avg", "mean": "avg", "pil": "pillow", "jpeg": "jpg", "hf": "huggingface",
    "transformers": "huggingface", "true": "on", "yes": "on", "1": "on", "false": "off",
    "no": "off", "0": "off", "linprobe": "linear", "probe": "linear", "lineval": "linear",
    "logistic": "fewshot", "neighbours": "knn", "neighbors": "knn", "visualize": "reconstruct",
}  # fmt: skip
"""What others call a value, a task or a layout -> its name here."""
_command_runs = False


@contextlib.contextmanager
def as_command() -> Iterator[None]:
    """Word errors for the user of a command, with flags, during the block."""
    global _command_runs
    before, _command_runs = _command_runs, True
    try:
        yield
    finally:
        _command_runs = before


def nearest(word: str, names: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the names most like a word, at most `count`; - and _, upper and lower case are equal.

    cutoff: the least similarity, as in `difflib.get_close_matches`.
    """
    plain = {squeezed(name): name for name in names}
    meant = squeezed(_OTHER_WORDS.get(squeezed(word), word))
    return [plain[near] for near in difflib.get_close_matches(meant, plain, count, cutoff)]


def squeezed(name: str) -> str:
    """Return a name in lower case without hyphens and underscores, as names are compared."""
    return re.sub(r"[-_\s]", "", name).lower()


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return ": did you mean NAME?" to append to an error about a word; "" if no name is near."""
    return "".join(f": did you mean {name}?" for name in nearest(word, names))


def in_one_line(error: BaseException) -> str:
    """Return the type and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, else its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class WordedError(Exception):
    """An error for users of commands and of the Python API, where --name becomes name."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if _command_runs else _FLAG.sub(lambda found: found[1] or found[2], text)
